"""The cache of a decode batch in the layout that a CPU decodes faster with, see `cpu_cache`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from stts_jax.attention import Mask
from stts_jax.inference.cache import KeyValueCache
from stts_jax.inference.cpu_cache import LayerCache, attend_to, run_each
from stts_jax.pytrees import register_pytree


@register_pytree
@dataclass(frozen=True)
class CpuSlotCache:
    """Keys and values by layer, at C cache indices of each of S slots; see `SlotCache`.

    Attributes:
      layers: keys and values of each.
      blocks: the blocks of the LLM by layer, which are set while a step runs.
    """

    layers: tuple[LayerCache, ...]
    blocks: tuple[Any, ...] = ()

    @staticmethod
    def zeros(shape: Sequence[int], dtype: Any) -> CpuSlotCache:
        """Returns an empty cache of a `slot_cache.cache_shape`."""
        # Each has a buffer of its own, as programs that are given the cache write into it.
        return CpuSlotCache(
            tuple(
                LayerCache.of(jnp.zeros(shape[1:], dtype), jnp.zeros(shape[1:], dtype))
                for _ in range(shape[0])
            )
        )

    @property
    def capacity(self) -> int:
        """Returns C."""
        return self.layers[0].length

    def put(self, slot: Int[Array, ""], cache_index: Any, new: KeyValueCache) -> CpuSlotCache:
        """Writes the keys and values of one row into a slot; see `SlotCache.put`."""

        def write(old: jax.Array, row: jax.Array) -> jax.Array:
            start = (slot, 0, 0, cache_index, 0)[: old.ndim]
            return jax.lax.dynamic_update_slice(old, row.astype(old.dtype), start)

        rows = zip(self.layers, new.keys, new.values, strict=True)
        layers = (jax.tree.map(write, layer, LayerCache.of(k, v)) for layer, k, v in rows)
        return replace(self, layers=tuple(layers))

    def run_blocks(
        self, run: Callable[..., tuple[jax.Array, CpuSlotCache]], blocks: Any, x: jax.Array
    ) -> tuple[jax.Array, CpuSlotCache]:
        """Runs the cache's own blocks one after the other; see `SlotCache.run_blocks`."""
        del blocks
        return run_each(run, self.blocks, x, self)

    def attend(
        self,
        query: Float[Array, "S 1 H h"],
        key: Float[Array, "S 1 K h"],
        value: Float[Array, "S 1 K h"],
        layer: int,
        cache_index: Int[Array, " S"],
        mask: Mask,
    ) -> tuple[jax.Array, CpuSlotCache]:
        """Writes one token of each slot at its own index, then attends from it."""
        own = self.layers[layer].write_each(LayerCache.of(key, value), cache_index)
        layers = (*self.layers[:layer], own, *self.layers[layer + 1 :])
        out = attend_to([own], query, mask)
        return out.astype(value.dtype), replace(self, layers=layers)
