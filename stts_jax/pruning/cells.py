"""A frame's grid of patches, cut into square cells; one cell is one pooled token."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp


def _padding(grid: int, pooling: int) -> tuple[int, int]:
    missing = -grid % pooling
    return missing // 2, missing - missing // 2


def to_cells(x: jax.Array, pooling: int) -> jax.Array:
    """Group the patches of each cell; where cells stick out of the grid, zeros fill them.

    Args:
      x: (..., N, D) patches in row-major order of a square grid.
      pooling: side w of a cell in patches.

    Returns:
      (..., P, w * w, D); cells row-major, patches row-major inside a cell.
    """
    *lead, patches, width = x.shape
    grid = math.isqrt(patches)
    before, after = _padding(grid, pooling)
    cells = (grid + before + after) // pooling
    x = x.reshape(*lead, grid, grid, width)
    if before or after:
        sides = [(before, after), (before, after), (0, 0)]
        x = jnp.pad(x, [(0, 0)] * len(lead) + sides)
    x = x.reshape(*lead, cells, pooling, cells, pooling, width)
    x = jnp.swapaxes(x, -4, -3)
    return x.reshape(*lead, cells * cells, pooling * pooling, width)


def to_patches(cells: jax.Array, grid: int, pooling: int) -> jax.Array:
    """Give every patch the value of its cell: (..., P) -> (..., N)."""
    *lead, count = cells.shape
    side = math.isqrt(count)
    before, _ = _padding(grid, pooling)
    x = cells.reshape(*lead, side, side)
    x = jnp.repeat(jnp.repeat(x, pooling, axis=-1), pooling, axis=-2)
    x = x[..., before : before + grid, before : before + grid]
    return x.reshape(*lead, grid * grid)
