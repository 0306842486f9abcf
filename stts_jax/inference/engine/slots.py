"""The state of a decode batch on the devices."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from stts_jax.inference.engine.cpu_slot_cache import CpuSlotCache
from stts_jax.inference.engine.slot_cache import SlotCache
from stts_jax.pytrees import register_pytree


@register_pytree
@dataclass(frozen=True)
class RowSampling:
    """How the tokens of each of S slots are chosen, or of one; see `sampling.Sampling`.

    Attributes:
      temperature, top_k, top_p: (S,) each.
      key: (S,) random keys.
    """

    temperature: Float[Any, "*S"]
    top_k: Int[Any, "*S"]
    top_p: Float[Any, "*S"]
    key: Key[Array, "*S"]


@register_pytree
@dataclass(frozen=True)
class Slots:
    """S slots between two steps.

    Attributes:
      cache: keys and values, at indices below `cache_index` of each slot.
      next_token: (S,) int32, chosen, not yet in the cache.
      position: (S,) int32, rotary position of `next_token`.
      cache_index: (S,) int32, index in the cache of `next_token`.
      stop_index: (S,) int32, the cache index at which an answer is as long as it may be.
      finished: (S,) bool, slots whose answer has ended, or that have none.
      sampling: of each slot.
    """

    cache: SlotCache | CpuSlotCache
    next_token: Int[Array, " S"]
    position: Int[Array, " S"]
    cache_index: Int[Array, " S"]
    stop_index: Int[Array, " S"]
    finished: Bool[Array, " S"]
    sampling: RowSampling

    def with_row(self, slot: jax.Array, **values: Any) -> Slots:
        """Returns the slots with new values of one of them, by the names of the fields."""
        sampling = values.pop("sampling")
        return replace(
            self,
            **{name: getattr(self, name).at[slot].set(value) for name, value in values.items()},
            sampling=jax.tree.map(lambda x, value: x.at[slot].set(value), self.sampling, sampling),
        )


def empty_slots(cache: SlotCache | CpuSlotCache, count: int) -> Slots:
    """Returns `count` slots without requests."""

    def zeros(dtype: Any = jnp.int32) -> jax.Array:
        return jnp.zeros(count, dtype)

    return Slots(
        cache=cache,
        next_token=zeros(),
        position=zeros(),
        cache_index=zeros(),
        stop_index=zeros(),
        finished=jnp.ones(count, bool),
        sampling=RowSampling(
            temperature=zeros(jnp.float32),
            top_k=zeros(),
            top_p=jnp.ones(count, jnp.float32),
            key=jax.random.split(jax.random.key(0), count),
        ),
    )
