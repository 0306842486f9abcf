"""Static-size compaction: the true positions of a mask, in order."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def compact(mask: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
    """Indices of the True entries of each row, in order, in an array of static size.

    A running count gives each True entry its place, so this costs one pass and no sort. True
    entries beyond `size` are left out; the packer sees to it that there are none.

    Args:
      mask: (B, n) bool.
      size: static number of places.

    Returns:
      indices (B, size) int32, n at places that hold nothing.
      places (B, n) int32, where each entry went, -1 for False entries.
    """
    length = mask.shape[-1]
    places = jnp.where(mask, jnp.cumsum(mask, axis=-1, dtype=jnp.int32) - 1, -1)
    places = jnp.where(places < size, places, -1)

    def scatter(row: jax.Array) -> jax.Array:
        empty = jnp.full((size,), length, jnp.int32)
        target = jnp.where(row >= 0, row, size)
        return empty.at[target].set(jnp.arange(length, dtype=jnp.int32), mode="drop")

    return jax.vmap(scatter)(places), places


def take_rows(x: jax.Array, indices: jax.Array, fill: float = 0) -> jax.Array:
    """`x[b, indices[b]]` for every row b, with `fill` where an index is out of range.

    Args:
      x: (B, n, ...).
      indices: (B, ...) int.
      fill: value at indices below 0 or from n on.

    Returns:
      (B, *indices.shape[1:], *x.shape[2:]).
    """
    length = x.shape[1]
    # A negative index would count from the end, so it is sent past it.
    safe = jnp.where(indices < 0, length, indices)
    return jax.vmap(lambda row, index: row.at[index].get(mode="fill", fill_value=fill))(x, safe)
