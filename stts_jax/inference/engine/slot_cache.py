"""The cache of a decode batch: each slot has one request, at a cache index of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int

from stts_jax.config import LlmConfig
from stts_jax.inference.cache import KeyValueCache
from stts_jax.inference.engine.cpu_slot_cache import CpuSlotCache
from stts_jax.parallel.mesh import BATCH_AXES, LOGICAL_AXES, rows_for
from stts_jax.pytrees import register_pytree


@register_pytree
@dataclass(frozen=True)
class SlotCache(KeyValueCache):
    """Keys and values of every layer, at C cache indices of each of S slots, which are its rows.

    A step writes the token of each slot at an index of its own.
    """

    @property
    def capacity(self) -> int:
        """Returns C."""
        return int(self.keys.shape[2])

    def put(self, slot: Int[Array, ""], cache_index: Any, new: KeyValueCache) -> SlotCache:
        """Writes the keys and values of one row into a slot, from a cache index on."""

        def write(old: jax.Array, row: jax.Array) -> jax.Array:
            start = (0, slot, cache_index, 0, 0)
            return jax.lax.dynamic_update_slice(old, row.astype(old.dtype), start)

        return SlotCache(write(self.keys, new.keys), write(self.values, new.values))

    def _write(
        self, key: jax.Array, value: jax.Array, layer: jax.Array, cache_index: jax.Array
    ) -> SlotCache:
        @partial(jax.vmap, in_axes=(1, 0, 0), out_axes=1)
        def write_row(old: jax.Array, new: jax.Array, index: jax.Array) -> jax.Array:
            return jax.lax.dynamic_update_slice(old, new[None], (layer, index, 0, 0))

        def write(old: jax.Array, new: jax.Array) -> jax.Array:
            return write_row(old, new.astype(old.dtype), cache_index)

        return SlotCache(write(self.keys, key), write(self.values, value))


def cache_shape(config: LlmConfig, slots: int, capacity: int) -> tuple[int, ...]:
    """Returns the shape of the keys, or of the values, of a `SlotCache`."""
    return config.layers, slots, capacity, config.kv_heads, config.head_dim


def cache_sharding(shape: Sequence[int], mesh: Mesh | None) -> NamedSharding | None:
    """Returns the sharding of keys and values: slots like rows of a batch, heads like parameters.

    An axis that the devices can't share evenly is on all of them.
    """
    if mesh is None:
        return None
    heads = LOGICAL_AXES["kv_heads"]
    assert heads is not None
    rows = BATCH_AXES if shape[1] == rows_for(shape[1], mesh) else None
    return NamedSharding(
        mesh, PartitionSpec(None, rows, None, heads if shape[3] % mesh.shape[heads] == 0 else None)
    )


def kept_sharded(cache: SlotCache | CpuSlotCache, mesh: Mesh | None) -> SlotCache | CpuSlotCache:
    """Returns a cache in its own sharding, so that programs hand it on as they got it."""
    if mesh is None or mesh.size == 1 or isinstance(cache, CpuSlotCache):
        return cache
    sharding = cache_sharding(cache.keys.shape, mesh)
    assert sharding is not None
    keys, values = (
        jax.lax.with_sharding_constraint(x, sharding) for x in (cache.keys, cache.values)
    )
    return replace(cache, keys=keys, values=values)


def new_cache(
    config: LlmConfig, slots: int, capacity: int, dtype: Any, mesh: Mesh | None, *, by_layer: bool
) -> SlotCache | CpuSlotCache:
    """Returns an empty cache.

    Args:
      config: of the LLM.
      slots: S.
      capacity: C.
      dtype: of keys and values.
      mesh: of the model.
      by_layer: in the layout that a CPU decodes faster with.
    """
    shape = cache_shape(config, slots, capacity)
    if by_layer:
        return CpuSlotCache.zeros(shape, dtype)
    sharding = cache_sharding(shape, mesh)
    zeros = jax.jit(lambda: jnp.zeros(shape, dtype), out_shardings=sharding)
    return SlotCache(zeros(), zeros())
