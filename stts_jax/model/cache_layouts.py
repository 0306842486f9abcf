"""Keys and values of one layer, laid out for the products of one query a row on a CPU.

Which layout XLA reads at the pace of memory depends on the CPU (docs/performance.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import jax
import jax.numpy as jnp

from stts_jax.host_cpu import has_avx512

# A few rows are multiplied with matrices this wide at one and a half times the pace of wider ones.
_PART = 64


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class InRows:
    """For products of the few rows of a query or of weights with the cache, best with AVX-512.

    Attributes:
      keys: (B, K, head_dim, C), rotated.
      values: (B, K, parts, C, head_dim / parts).
    """

    keys: jax.Array
    values: jax.Array

    @property
    def places(self) -> int:
        """C."""
        return self.keys.shape[3]

    @classmethod
    def of(cls, keys: jax.Array, values: jax.Array) -> Self:
        """From (B, C, K, head_dim) of each."""
        width = values.shape[-1]
        parts = width // _PART if width % _PART == 0 else 1
        values = values.reshape(*values.shape[:-1], parts, -1)
        return cls(jnp.moveaxis(keys, 1, 3), jnp.moveaxis(values, 1, 3))

    def write(self, new: Self, place: jax.Array) -> Self:
        """With the keys and values of one place."""
        return type(self)(
            _put(self.keys, new.keys, place, 3), _put(self.values, new.values, place, 3)
        )

    def scores(self, query: jax.Array) -> jax.Array:
        """(B, K, G, head_dim) of G query heads a key head -> (B, K, G, C) float32."""
        return _product(query, self.keys)

    def weighted(self, weights: jax.Array) -> jax.Array:
        """Sums of the values: (B, K, G, C) -> (B, K, G, head_dim) float32."""
        rows, key_heads, parts = self.values.shape[:3]
        shape = (rows, key_heads, parts, *weights.shape[2:])
        weights = jnp.broadcast_to(weights[:, :, None].astype(self.values.dtype), shape)
        sums = jnp.swapaxes(_product(weights, self.values), 2, 3)
        return sums.reshape(*sums.shape[:3], -1)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class InColumns:
    """For products of the cache with the few columns of a query or of weights.

    Attributes:
      keys: (B, K, C, head_dim), rotated.
      values: (B, K, head_dim, C).
    """

    keys: jax.Array
    values: jax.Array

    @property
    def places(self) -> int:
        """C."""
        return self.keys.shape[2]

    @classmethod
    def of(cls, keys: jax.Array, values: jax.Array) -> Self:
        """From (B, C, K, head_dim) of each."""
        return cls(jnp.moveaxis(keys, 1, 2), jnp.moveaxis(values, 1, 3))

    def write(self, new: Self, place: jax.Array) -> Self:
        """With the keys and values of one place."""
        return type(self)(
            _put(self.keys, new.keys, place, 2), _put(self.values, new.values, place, 3)
        )

    def scores(self, query: jax.Array) -> jax.Array:
        """As `InRows.scores`."""
        columns = jnp.swapaxes(query, -1, -2)
        return jnp.swapaxes(_product(self.keys, columns), -1, -2)

    def weighted(self, weights: jax.Array) -> jax.Array:
        """As `InRows.weighted`."""
        columns = jnp.swapaxes(weights, -1, -2).astype(self.values.dtype)
        return jnp.swapaxes(_product(self.values, columns), -1, -2)


Layout = InRows | InColumns


def quickest_layout() -> type[InRows] | type[InColumns]:
    """Of the CPU that this runs on."""
    return InRows if has_avx512() else InColumns


def _put(old: jax.Array, new: jax.Array, place: jax.Array, axis: int) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), place, axis=axis)


def _product(left: jax.Array, right: jax.Array) -> jax.Array:
    """In float32; the barriers keep XLA from turning it round."""
    left, right = jax.lax.optimization_barrier((left, right))
    return jax.lax.optimization_barrier(jnp.matmul(left, right, preferred_element_type=jnp.float32))
