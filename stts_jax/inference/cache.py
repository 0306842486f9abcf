"""The key-value cache of decoding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from stts_jax.attention import Mask, attention
from stts_jax.pytrees import register_pytree


@register_pytree
@dataclass(frozen=True)
class KeyValueCache:
    """Keys and values of every layer, at C cache indices for each row.

    Attributes:
      keys: (layers, B, C, K, head_dim), rotated.
      values: (layers, B, C, K, head_dim).
    """

    keys: Float[Array, "layers B C K h"]
    values: Float[Array, "layers B C K h"]

    def stacked(self) -> KeyValueCache:
        """Returns the cache itself; see `CpuCache.stacked`."""
        return self

    def run_blocks(
        self, run: Callable[..., tuple[jax.Array, KeyValueCache]], blocks: Any, x: jax.Array
    ) -> tuple[jax.Array, KeyValueCache]:
        """Runs the blocks of the LLM on one token of each row, and updates the cache.

        Args:
          run: (block, layer, x, cache) -> (x, cache).
          blocks: the stacked blocks.
          x: (B, 1, d).

        Returns:
          (B, 1, d), and the cache with the token.
        """

        # The cache is carried and updated in place, one token of one layer at a time. As an input
        # and output of the scan it would be in memory twice.
        def body(carry: tuple[jax.Array, KeyValueCache], inputs: tuple[Any, jax.Array]) -> Any:
            return run(*inputs, *carry), None

        (x, cache), _ = jax.lax.scan(body, (x, self), (blocks, jnp.arange(len(self.keys))))
        return x, cache

    def attend(
        self,
        query: Float[Array, "B 1 H h"],
        key: Float[Array, "B 1 K h"],
        value: Float[Array, "B 1 K h"],
        layer: Int[Array, ""],
        cache_index: Int[Array, "*rows"],
        mask: Mask,
    ) -> tuple[jax.Array, KeyValueCache]:
        """Writes one token of each row, then attends from it to the cache of a layer.

        Args:
          query: (B, 1, H, head_dim).
          key: (B, 1, K, head_dim).
          value: (B, 1, K, head_dim).
          layer: () int.
          cache_index: () int, where the token is written; in a `SlotCache` (B,).
          mask: the cache indices that the token sees.

        Returns:
          (B, 1, H, head_dim), and the cache with the token.
        """
        written = self._write(key, value, layer, cache_index)
        keys, values = (
            jax.lax.dynamic_index_in_dim(x, layer, keepdims=False)
            for x in (written.keys, written.values)
        )
        return attention(query, keys, values, mask=mask), written

    def _write(
        self, key: jax.Array, value: jax.Array, layer: jax.Array, cache_index: jax.Array
    ) -> KeyValueCache:
        def put(old: jax.Array, new: jax.Array) -> jax.Array:
            start = (layer, 0, cache_index, 0, 0)
            return jax.lax.dynamic_update_slice(old, new[None].astype(old.dtype), start)

        return KeyValueCache(put(self.keys, key), put(self.values, value))
