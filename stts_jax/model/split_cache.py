"""A cache of keys and values for decoding on a CPU."""

from __future__ import annotations

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from stts_jax.attention import MASK_VALUE, Mask, as_array
from stts_jax.model.cache_layouts import Layout, quickest_layout


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SplitCache:
    """What steps read, apart from what they write, and every layer apart from the others.

    A layer that is cut out of a stack is copied before it is multiplied. And a loop carries what it
    doesn't write through without a copy.

    Attributes:
      prompt: by layer, of the places that were filled before the first step.
      answer: by layer, of the places behind them.
    """

    prompt: tuple[Layout, ...]
    answer: tuple[Layout, ...]

    @staticmethod
    def of(keys: jax.Array, values: jax.Array, length: int) -> SplitCache:
        """From (layers, B, C, K, head_dim) of each, of which `length` places are filled."""
        layout = quickest_layout()

        def part(first: int, stop: int | None) -> tuple[Layout, ...]:
            layers = zip(keys[:, :, first:stop], values[:, :, first:stop], strict=True)
            return tuple(layout.of(*layer) for layer in layers)

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
        rows, _, key_heads, width = key.shape
        allowed = as_array(mask)[:, None]
        prompt, answer = self.prompt[layer], self.answer[layer]
        length = allowed.shape[-1] - answer.places
        answer = answer.write(type(answer).of(key, value), place - length)
        grouped = query.reshape(rows, key_heads, -1, width)
        scores = jnp.concatenate([part.scores(grouped) for part in (prompt, answer)], axis=-1)
        scores = jnp.where(allowed, scores * width**-0.5, MASK_VALUE)
        weights = jnp.exp(scores - scores.max(-1, keepdims=True))
        sums = prompt.weighted(weights[..., :length]) + answer.weighted(weights[..., length:])
        attended = sums / weights.sum(-1, keepdims=True)
        attended = jnp.where(allowed.any(-1, keepdims=True), attended, 0)
        attended = attended.reshape(query.shape).astype(value.dtype)
        answers = (*self.answer[:layer], answer, *self.answer[layer + 1 :])
        return attended, replace(self, answer=answers)
