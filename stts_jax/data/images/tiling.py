"""Cuts a large image into overlapping crops, and joins their patches to one grid.

Every crop is as large as the ViT's input. Neighbours overlap by a margin, so that a patch at a
crop's edge is taken from the crop in which it has something around it.
Source: olmo/preprocessing/image_preprocessor.py (docs/reference.md#tiling-and-crops).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def select_tiling(height: float, width: float, window: int, max_crops: int) -> tuple[int, int]:
    """Rows and columns of windows that fit an image best.

    The tiling for which the image is enlarged least; if it must shrink for each, the one for which
    it shrinks least. Of equals, the one with fewer windows, then with fewer rows.

    Args:
      height, width: of the image without margins, pixels.
      window: side of the square that a crop adds, pixels.
      max_crops: rows * columns at most.
    """
    tilings = np.array(all_tilings(max_crops))
    with np.errstate(divide="ignore"):  # a side of no pixels leaves the choice to the other one
        scales = (tilings * window).astype(np.float32) / np.array([height, width], np.float32)
    scale = scales.min(-1)
    enough = scale >= 1
    best = np.argmin(np.where(enough, scale, np.inf)) if enough.any() else np.argmax(scale)
    rows, columns = tilings[best].tolist()
    return rows, columns


def all_tilings(max_crops: int) -> list[tuple[int, int]]:
    """(rows, columns) of at most `max_crops` windows, few windows first, then few rows."""
    sides = range(1, max_crops + 1)
    tilings = [(rows, columns) for rows in sides for columns in sides]
    fitting = [tiling for tiling in tilings if tiling[0] * tiling[1] <= max_crops]
    return sorted(fitting, key=lambda tiling: (tiling[0] * tiling[1], tiling[0]))


@dataclass(frozen=True)
class CropLayout:
    """Crops of one size that overlap.

    Attributes:
      image_size: side of a crop, pixels.
      patch_size: side of a patch, pixels.
      margins: patches at the (top and left, bottom and right) of a crop that its neighbours have
        further inside; a crop at the image's border keeps those on that side.
    """

    image_size: int
    patch_size: int
    margins: tuple[int, int]

    @property
    def side(self) -> int:
        """Patches along a side of a crop."""
        return self.image_size // self.patch_size

    @property
    def window(self) -> int:
        """Patches from one crop to the next."""
        return self.side - sum(self.margins)

    def tiling(self, height: int, width: int, max_crops: int) -> tuple[int, int]:
        """Rows and columns of crops for an image of `height` x `width` pixels."""
        margin = sum(self.margins) * self.patch_size
        window = self.window * self.patch_size
        return select_tiling(max(height - margin, 1), max(width - margin, 1), window, max_crops)

    def grid_size(self, tiling: tuple[int, int]) -> tuple[int, int]:
        """(rows, columns) of patches of the image that the crops are cut from."""
        rows, columns = (count * self.window + sum(self.margins) for count in tiling)
        return rows, columns

    def canvas_size(self, tiling: tuple[int, int]) -> tuple[int, int]:
        """(height, width) in pixels of the image that the crops are cut from."""
        rows, columns = self.grid_size(tiling)
        return rows * self.patch_size, columns * self.patch_size

    def cut(self, canvas: np.ndarray, tiling: tuple[int, int]) -> np.ndarray:
        """Crops of an image, row by row.

        Args:
          canvas: (*canvas_size, ...).
          tiling: rows and columns of crops.

        Returns:
          (rows * columns, image_size, image_size, ...).
        """
        step, size = self.window * self.patch_size, self.image_size
        starts = [
            (row * step, column * step) for row in range(tiling[0]) for column in range(tiling[1])
        ]
        return np.stack([canvas[y : y + size, x : x + size] for y, x in starts])

    def patch_grid(self, tiling: tuple[int, int]) -> np.ndarray:
        """Returns the patch at each position of the image that the crops are cut from.

        Returns:
          `grid_size` int32, `crop * N + patch` with N patches a crop.
        """
        height, width = self.grid_size(tiling)
        crop_row, row = self._crop_and_offset(height, tiling[0])
        crop_column, column = self._crop_and_offset(width, tiling[1])
        crop = crop_row[:, None] * tiling[1] + crop_column
        patch = row[:, None] * self.side + column
        return (crop * self.side**2 + patch).astype(np.int32)

    def _crop_and_offset(self, length: int, crops: int) -> tuple[np.ndarray, np.ndarray]:
        """Crop and offset in it of each of `length` positions along one side."""
        positions = np.arange(length)
        crop = ((positions - self.margins[0]) // self.window).clip(0, crops - 1)
        return crop, positions - crop * self.window
