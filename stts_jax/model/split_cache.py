"""A cache of keys and values for decoding on a CPU, each layer's laid out for one query a row."""

from __future__ import annotations

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from stts_jax.layers.attention import Mask
from stts_jax.layers.attention.masks import FORBIDDEN, PlaceMask


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class KeysAndValues:
    """Of one layer.

    Attributes:
      keys: (B, K, C, head_dim), rotated.
      values: (B, K, head_dim, C).
    """

    keys: jax.Array
    values: jax.Array

    @staticmethod
    def laid_out(keys: jax.Array, values: jax.Array) -> KeysAndValues:
        """From (B, C, K, head_dim) of each."""
        return KeysAndValues(jnp.moveaxis(keys, 1, 2), jnp.moveaxis(values, 1, 3))

    def write(self, new: KeysAndValues, place: jax.Array) -> KeysAndValues:
        """With the keys and values of one place."""
        update = jax.lax.dynamic_update_slice_in_dim
        return KeysAndValues(
            update(self.keys, new.keys.astype(self.keys.dtype), place, axis=2),
            update(self.values, new.values.astype(self.values.dtype), place, axis=3),
        )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SplitCache:
    """What steps read, apart from what they write, and every layer apart from the others.

    Both products of attention then have the cache on the left as it lies, and a few columns on the
    right, which XLA multiplies at the pace of memory; a layer that is cut out of a stack is copied
    first. And a loop carries what it doesn't write through without a copy.

    Attributes:
      prompt: by layer, of the places that were filled before the first step.
      answer: by layer, of the places behind them.
    """

    prompt: tuple[KeysAndValues, ...]
    answer: tuple[KeysAndValues, ...]

    @staticmethod
    def of(keys: jax.Array, values: jax.Array, length: int) -> SplitCache:
        """From (layers, B, C, K, head_dim) of each, of which `length` places are filled."""

        def part(first: int, stop: int | None) -> tuple[KeysAndValues, ...]:
            layers = zip(keys[:, :, first:stop], values[:, :, first:stop], strict=True)
            return tuple(KeysAndValues.laid_out(*layer) for layer in layers)

        return SplitCache(part(0, length), part(length, None))

    def attend(
        self,
        query: jax.Array,
        key: jax.Array,
        value: jax.Array,
        layer: int,
        place: jax.Array,
        mask: Mask,
    ) -> tuple[jax.Array, SplitCache]:
        """Attention of one token of each row, after its own key and value were written.

        Args:
          query: (B, 1, H, head_dim).
          key, value: (B, 1, K, head_dim).
          layer: which layer's.
          place: () int, where in the whole cache the token goes.
          mask: which of all the places it may look at.

        Returns:
          (B, 1, H, head_dim), and the cache with the token.
        """
        prompt = self.prompt[layer]
        rows, key_heads, length, width = prompt.keys.shape
        new = KeysAndValues.laid_out(key, value)
        answer = self.answer[layer].write(new, place - length)
        columns = jnp.swapaxes(query.reshape(rows, key_heads, -1, width), -1, -2)
        scores = jnp.concatenate([_times(part.keys, columns) for part in (prompt, answer)], axis=2)
        allowed = mask.array() if isinstance(mask, PlaceMask) else mask
        allowed = jnp.swapaxes(allowed, -1, -2)[:, None]
        scores = jnp.where(allowed, scores * width**-0.5, FORBIDDEN)
        weights = jnp.exp(scores - scores.max(2, keepdims=True))
        attended = _times(prompt.values, weights[:, :, :length].astype(value.dtype))
        attended += _times(answer.values, weights[:, :, length:].astype(value.dtype))
        attended = jnp.where(
            allowed.any(2, keepdims=True), attended / weights.sum(2)[:, :, None], 0
        )
        attended = jnp.swapaxes(attended, -1, -2).reshape(query.shape).astype(value.dtype)
        answers = (*self.answer[:layer], answer, *self.answer[layer + 1 :])
        return attended, replace(self, answer=answers)


def _times(matrices: jax.Array, columns: jax.Array) -> jax.Array:
    """Their product in float32; the barrier keeps XLA from turning it round."""
    columns = jax.lax.optimization_barrier(columns)
    return jnp.matmul(matrices, columns, preferred_element_type=jnp.float32)
