"""A frame's grid of patches, cut into square pooling windows; one window is one pooled token."""

from __future__ import annotations

import math

import jax.numpy as jnp
from jaxtyping import Array, Num, Shaped


def to_windows(x: Num[Array, "*batch N D"], pooling: int) -> Num[Array, "*batch P window D"]:
    """Groups the patches of each window; zeros fill windows that stick out of the grid.

    Args:
      x: (..., N, D) patches in row-major order of a square grid.
      pooling: side w of a window in patches.

    Returns:
      (..., P, w * w, D); windows row-major, patches row-major inside a window.
    """
    *batch, patches, width = x.shape
    grid = math.isqrt(patches)
    before, after = _padding(grid, pooling)
    side = (grid + before + after) // pooling
    x = x.reshape(*batch, grid, grid, width)
    if before or after:
        sides = [(before, after), (before, after), (0, 0)]
        x = jnp.pad(x, [(0, 0)] * len(batch) + sides)
    x = x.reshape(*batch, side, pooling, side, pooling, width)
    x = jnp.swapaxes(x, -4, -3)
    return x.reshape(*batch, side * side, pooling * pooling, width)


def from_windows(
    windows: Num[Array, "*batch P window D"], pooling: int
) -> Num[Array, "*batch N D"]:
    """Puts the patches of each window back into the grid, which the windows tile.

    Args:
      windows: (..., P, w * w, D), as of `to_windows`.
      pooling: side w of a window in patches.

    Returns:
      (..., N, D) patches in row-major order.
    """
    *batch, count, _, width = windows.shape
    side = math.isqrt(count)
    x = windows.reshape(*batch, side, side, pooling, pooling, width)
    return jnp.swapaxes(x, -4, -3).reshape(*batch, (side * pooling) ** 2, width)


def to_patches(
    windows: Shaped[Array, "*batch P"], grid: int, pooling: int
) -> Shaped[Array, "*batch N"]:
    """Gives every patch the value of its window: (..., P) -> (..., N)."""
    *batch, count = windows.shape
    side = math.isqrt(count)
    before, _ = _padding(grid, pooling)
    x = windows.reshape(*batch, side, side)
    x = jnp.repeat(jnp.repeat(x, pooling, axis=-1), pooling, axis=-2)
    x = x[..., before : before + grid, before : before + grid]
    return x.reshape(*batch, grid * grid)


def windows_per_frame(patches: int, pooling: int) -> int:
    """Returns P, the pooling windows of a square grid of N patches."""
    return (-(-math.isqrt(patches) // pooling)) ** 2


def _padding(grid: int, pooling: int) -> tuple[int, int]:
    missing = -grid % pooling
    return missing // 2, missing - missing // 2
