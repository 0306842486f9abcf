"""Turning and mirroring frames as their file says that they are shown."""

from __future__ import annotations

from typing import Any

import av
import numpy as np


def upright(image: np.ndarray, frame: av.VideoFrame) -> np.ndarray:
    """Returns the picture of a frame as players show it.

    The display matrix maps coordinates of the picture to those of the screen. A camera turns by
    quarters and mirrors, so it is taken for the nearest matrix that does no more than that.

    Args:
      image: (H, W, 3), as it was decoded.
      frame: it came from.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return image
    (a, b), (c, d) = _entries(matrix).reshape(3, 3)[:2, :2]
    # x' = a x + c y and y' = b x + d y.
    if abs(a) + abs(d) >= abs(b) + abs(c):
        mirrored, upside_down = a < 0, d < 0
    else:
        image, mirrored, upside_down = image.swapaxes(0, 1), c < 0, b < 0
    image = image[::-1] if upside_down else image
    return np.ascontiguousarray(image[:, ::-1] if mirrored else image)


def _entries(matrix: Any) -> np.ndarray:
    """Returns the nine entries of a display matrix, which are fixed-point numbers."""
    return np.frombuffer(matrix, np.int32)[:9].astype(np.int64)
