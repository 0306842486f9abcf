"""Pixels to patches: resizing, cutting, and which patches make one pooled token."""

from __future__ import annotations

import numpy as np


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """Squash an image to a square, bilinear without antialiasing.

    Half-pixel centres, computed in float32 and rounded half to even, as the reference's `siglip`
    mode does (DATA 2.3). PIL's bilinear filter antialiases and is no substitute.

    Args:
      image: (H, W, 3) uint8.
      size: side of the result in pixels.

    Returns:
      (size, size, 3) uint8; `image` itself if it has that size.
    """
    if image.shape[:2] == (size, size):
        return image
    top, bottom, row_weight = _neighbours(image.shape[0], size)
    left, right, column_weight = _neighbours(image.shape[1], size)
    row_weight, column_weight = row_weight[:, None, None], column_weight[None, :, None]
    rows = _blend(image[top].astype(np.float32), image[bottom], row_weight)
    pixels = _blend(rows[:, left], rows[:, right], column_weight)
    return np.rint(pixels).clip(0, 255).astype(np.uint8)


def _neighbours(length: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both source indices of each of `size` samples, and the weight of the second."""
    scale = np.float32(length) / np.float32(size)
    centre = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    centre = centre.clip(0)
    first = np.minimum(centre.astype(np.int64), length - 1)
    return first, np.minimum(first + 1, length - 1), centre - first.astype(np.float32)


def _blend(first: np.ndarray, second: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return first * (np.float32(1) - weight) + second * weight


def to_patches(frames: np.ndarray, patch_size: int) -> np.ndarray:
    """Cut frames into patches.

    Args:
      frames: (n, H, W, 3), sides are multiples of `patch_size` p.
      patch_size: p, pixels.

    Returns:
      (n, H/p * W/p, p*p*3), row by row; inside a patch the order is row, column, channel.
    """
    n, height, width, channels = frames.shape
    grid = frames.reshape(n, height // patch_size, patch_size, width // patch_size, patch_size, -1)
    return grid.transpose(0, 1, 3, 2, 4, 5).reshape(n, -1, patch_size**2 * channels)


def pooling_index(grid: int, pooling: int) -> np.ndarray:
    """Which patches of a frame each pooled token takes.

    A grid that `pooling` doesn't divide is padded, the smaller half before (DATA 2.7).

    Args:
      grid: patches along a side, g.
      pooling: side of the square of patches, p.

    Returns:
      (ceil(g/p)**2, p*p) int32 patch numbers, -1 where there is none.
    """
    padding = -grid % pooling
    before = padding // 2
    patches = np.arange(grid * grid, dtype=np.int32).reshape(grid, grid)
    patches = np.pad(patches, (before, padding - before), constant_values=-1)
    cells = patches.shape[0] // pooling
    patches = patches.reshape(cells, pooling, cells, pooling).transpose(0, 2, 1, 3)
    return patches.reshape(cells**2, pooling**2)
