"""Turns pixels into patches: resizing, normalising, cutting, pooling.

Source: olmo/preprocessing/image_preprocessor.py and preprocessor_utils.py
(docs/reference.md#images and #pooling-windows).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np

from stts_jax.data.images.file import ImageError as ImageError
from stts_jax.data.images.file import load_image as load_image

Normalization = Literal["siglip", "openai", "dino"]

# Mean and deviation of each channel that a ViT was trained with; SigLIP maps [0, 1] to [-1, 1].
CHANNEL_STATISTICS = {
    "openai": ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]),
    "dino": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
}


def require_image(image: np.ndarray) -> None:
    """Check that an array is an image.

    Raises:
      ImageError: if it isn't (H, W, 3) uint8 with at least one pixel.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ImageError(
            f"an image has shape {image.shape} and type {image.dtype}; give (height, width, 3) "
            "uint8 with at least one pixel"
        )


# ------------------------------------------------------------------------------------ resizing


def resize(image: np.ndarray, size: int | tuple[int, int]) -> np.ndarray:
    """Squash an image to a size, bilinear without antialiasing.

    Half-pixel centres, computed in float32 and rounded half to even, as the reference's `siglip`
    mode does (docs/reference.md#images). PIL's bilinear filter antialiases and is no substitute.

    Args:
      image: (H, W, 3) uint8.
      size: (height, width) of the result in pixels, or the side of a square.

    Returns:
      (height, width, 3) uint8; `image` itself if it has that size.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if image.shape[:2] == (height, width):
        return image
    top, bottom, row_weight = _neighbours(image.shape[0], height)
    left, right, column_weight = _neighbours(image.shape[1], width)
    # Rows that no sample is near are never touched: a large image costs hardly more than a small.
    used, position = np.unique(np.stack([top, bottom]), return_inverse=True)
    top, bottom = position.reshape(2, -1)
    # Two axes, columns with their channels in one, are several times as fast as three.
    rows = image[used].reshape(len(used), -1)
    first, second = rows.take(_with_channels(left), 1), rows.take(_with_channels(right), 1)
    rows = _blend(first, second, column_weight.repeat(3))
    pixels = _blend(rows[top], rows[bottom], row_weight[:, None])
    return np.rint(pixels, out=pixels).astype(np.uint8).reshape(height, width, 3)


def _with_channels(columns: np.ndarray) -> np.ndarray:
    """Indices of columns' values in a row whose axes of columns and channels are merged."""
    return np.add.outer(columns * 3, np.arange(3)).ravel()


def _neighbours(length: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both source indices of each of `size` samples, and the weight of the second."""
    scale = np.float32(length) / np.float32(size)
    centre = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    centre = centre.clip(0)
    first = np.minimum(centre.astype(np.int64), length - 1)
    return first, np.minimum(first + 1, length - 1), centre - first.astype(np.float32)


def _blend(first: np.ndarray, second: np.ndarray, weight: np.ndarray) -> np.ndarray:
    mixed = first * (np.float32(1) - weight)
    mixed += second * weight
    return mixed


def resize_bicubic(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Squash an image to a size, bicubic with antialiasing.

    The reference's `dino` and `metaclip` modes (docs/reference.md#images).

    Args:
      image: (H, W, 3) uint8.
      size: (height, width) of the result in pixels.

    Returns:
      (height, width, 3) uint8.
    """
    pixels = _filter(image.astype(np.float32), size, _cubic, 2.0)
    return np.rint(pixels).clip(0, 255).astype(np.uint8)


def resize_and_pad(image: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Fit an image into a size as it is, bilinear with antialiasing, black around it.

    The reference's `default` mode (docs/reference.md#images). The smaller half of the padding is
    before.

    Args:
      image: (H, W, 3) uint8.
      size: (height, width) of the result in pixels.

    Returns:
      (height, width, 3) float32 in [0, 1], and (height, width) bool, true where the image is.

    Raises:
      ImageError: if the image is so long that nothing is left of its short side.
    """
    scale = min(
        np.float32(wanted) / np.float32(is_)
        for wanted, is_ in zip(size, image.shape[:2], strict=True)
    )
    height, width = (int(np.float32(side) * scale) for side in image.shape[:2])
    if not height or not width:
        raise ImageError(
            f"an image of {image.shape[0]} x {image.shape[1]} pixels is too long to be fitted into "
            f"{size[0]} x {size[1]}; cut it into pieces"
        )
    pixels = _filter(image.astype(np.float32) / np.float32(255), (height, width), _triangle, 1.0)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    inside = np.s_[top : top + height, left : left + width]
    canvas, mask = np.zeros((*size, 3), np.float32), np.zeros(size, bool)
    canvas[inside] = pixels.clip(0, 1)
    mask[inside] = True
    return canvas, mask


def _filter(
    image: np.ndarray,
    size: tuple[int, int],
    kernel: Callable[[np.ndarray], np.ndarray],
    radius: float,
) -> np.ndarray:
    """Convolve with `kernel` (zero beyond `radius`), widened where the image shrinks."""
    flat = image.reshape(image.shape[0], -1)
    index, weights = _taps(image.shape[1], size[1], kernel, radius)
    columns = zip(map(_with_channels, index), weights.repeat(3, 1), strict=True)
    flat = sum(flat.take(i, 1) * weight for i, weight in columns)
    index, weights = _taps(image.shape[0], size[0], kernel, radius)
    flat = sum(flat[i] * weight[:, None] for i, weight in zip(index, weights, strict=True))
    return flat.reshape(*size, 3)


def _taps(
    length: int, size: int, kernel: Callable[[np.ndarray], np.ndarray], radius: float
) -> tuple[np.ndarray, np.ndarray]:
    """Source indices and weights of each of `size` samples, both (taps, size)."""
    scale = np.float32(length) / np.float32(size)
    stretch = max(scale, np.float32(1))
    centre = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * scale
    reach = np.float32(radius) * stretch
    first = (centre - reach + np.float32(0.5)).astype(np.int64).clip(0)
    end = (centre + reach + np.float32(0.5)).astype(np.int64).clip(None, length)
    index = first + np.arange((end - first).max())[:, None]
    weights = kernel((index.astype(np.float32) - centre + np.float32(0.5)) / stretch)
    weights = np.where(index < end, weights, np.float32(0))
    return np.minimum(index, length - 1), weights / weights.sum(0)


def _triangle(x: np.ndarray) -> np.ndarray:
    return (np.float32(1) - np.abs(x)).clip(0)


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' kernel with a = -1/2, as Pillow's."""
    x = np.abs(x)
    near = (np.float32(1.5) * x - np.float32(2.5)) * x * x + np.float32(1)
    far = ((np.float32(-0.5) * x + np.float32(2.5)) * x - np.float32(4)) * x + np.float32(2)
    return np.where(x < 1, near, np.where(x < 2, far, np.float32(0)))


# --------------------------------------------------------------------------- values and patches


def normalize(pixels: np.ndarray, mode: Normalization) -> np.ndarray:
    """Shift and scale colours to what a ViT was trained with (docs/reference.md#images).

    Args:
      pixels: (..., 3) float32 in [0, 1].
      mode: `siglip` maps to [-1, 1], `openai` and `dino` to mean 0 and deviation 1.

    Returns:
      (..., 3) float32.
    """
    if mode == "siglip":
        return pixels * np.float32(2) - np.float32(1)
    mean, deviation = np.array(CHANNEL_STATISTICS[mode], np.float32)
    return (pixels - mean) / deviation


def to_patches(frames: np.ndarray, patch_size: int) -> np.ndarray:
    """Cut frames into patches.

    Args:
      frames: (n, H, W, C), sides are multiples of `patch_size` p.
      patch_size: p, pixels.

    Returns:
      (n, H/p * W/p, p*p*C), row by row; inside a patch the order is row, column, channel.
    """
    n, height, width, channels = frames.shape
    grid = frames.reshape(n, height // patch_size, patch_size, width // patch_size, patch_size, -1)
    return grid.transpose(0, 1, 3, 2, 4, 5).reshape(n, -1, patch_size**2 * channels)


def from_patches(patches: np.ndarray, patch_size: int) -> np.ndarray:
    """Returns the square frames, (n, H, H, C), that `to_patches` cut into (n, P, p*p*C)."""
    n, side = len(patches), math.isqrt(patches.shape[1])
    grid = patches.reshape(n, side, side, patch_size, patch_size, -1).transpose(0, 1, 3, 2, 4, 5)
    return grid.reshape(n, side * patch_size, side * patch_size, -1)


def pooling_windows(patches: np.ndarray, pooling: tuple[int, int]) -> np.ndarray:
    """Groups a grid of patch numbers into pooling windows, each of which makes one token.

    A grid that `pooling` doesn't divide is padded, the smaller half before
    (docs/reference.md#pooling-windows).

    Args:
      patches: (H, W) integers.
      pooling: (rows, columns) of patches in a window.

    Returns:
      (ceil(H/rows), ceil(W/columns), rows*columns), row by row, -1 where there is no patch.
    """
    padding = [-side % size for side, size in zip(patches.shape, pooling, strict=True)]
    around = [(extra // 2, extra - extra // 2) for extra in padding]
    patches = np.pad(patches, around, constant_values=-1)
    height, width = patches.shape[0] // pooling[0], patches.shape[1] // pooling[1]
    windows = patches.reshape(height, pooling[0], width, pooling[1]).transpose(0, 2, 1, 3)
    return windows.reshape(height, width, -1)


def pooling_index(grid: int, pooling: int) -> np.ndarray:
    """Returns the patches of a frame that each pooled token is made of; see `pooling_windows`.

    Args:
      grid: patches along a side, g.
      pooling: side of the square of patches, p.

    Returns:
      (ceil(g/p)**2, p*p) int32 patch numbers, -1 where there is none.
    """
    patches = np.arange(grid * grid, dtype=np.int32).reshape(grid, grid)
    return pooling_windows(patches, (pooling, pooling)).reshape(-1, pooling**2)
