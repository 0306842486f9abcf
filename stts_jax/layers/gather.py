"""Gathers with static sizes: nonzero positions of a mask, and rows at given indices."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def static_nonzero(mask: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
    """Returns the indices of the True entries of each row, in order, and the inverse index.

    The output position of each True entry is a running count, so this is one pass without a sort.
    True entries beyond `size` are left out; the packer makes sure that there are none.

    Args:
      mask: (B, n) bool.
      size: static number of output positions.

    Returns:
      indices (B, size) int32, n at unused output positions.
      inverse (B, n) int32, the output position of each entry, -1 for False entries.
    """
    length = mask.shape[-1]
    inverse = jnp.where(mask, jnp.cumsum(mask, axis=-1, dtype=jnp.int32) - 1, -1)
    inverse = jnp.where(inverse < size, inverse, -1)

    def scatter(row: jax.Array) -> jax.Array:
        unused = jnp.full((size,), length, jnp.int32)
        target = jnp.where(row >= 0, row, size)
        return unused.at[target].set(jnp.arange(length, dtype=jnp.int32), mode="drop")

    return jax.vmap(scatter)(inverse), inverse


def take_rows(x: jax.Array, indices: jax.Array, fill: float = 0) -> jax.Array:
    """Returns `x[b, indices[b]]` for every row b, with `fill` where an index is out of range.

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
