"""Masks in COCO's run-length encoding, decoded when they are looked at.

An encoded mask has `size` [height, width] and `counts`, the lengths of the runs of 0, 1, 0, ...
down the columns: a list of numbers, or a text that packs them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

import numpy as np

from stts_jax.data.datasets.base import DatasetError

EncodedMask = Mapping[str, Any]


class TimedMasks:
    """The masks of an object by time in seconds: `time in masks`, `masks[time]` (H, W) bool.

    A mask takes as much memory as a frame, and of all that a benchmark has only those are needed
    that a point is on, so each is decoded whenever it is asked for. No Mapping, because those
    are saved with predictions.

    Args:
      encoded: by time.

    Raises:
      DatasetError: if runs that are listed don't fill their mask.
    """

    def __init__(self, encoded: Mapping[float, EncodedMask]) -> None:
        self._encoded = dict(encoded)
        for mask in self._encoded.values():
            _require_full(mask)

    def __contains__(self, time: float) -> bool:
        return time in self._encoded

    def __getitem__(self, time: float) -> np.ndarray:
        return decode_mask(self._encoded[time])


def decode_mask(encoded: EncodedMask) -> np.ndarray:
    """The (H, W) bool mask.

    Raises:
      DatasetError: if the runs are packed and pycocotools is not installed, or if they are listed
        and don't fill the mask.
    """
    if _is_packed(encoded):
        return _coco_masks().decode(dict(encoded)).astype(bool)
    _require_full(encoded)
    counts = encoded["counts"]
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(encoded["size"], order="F")


def require_decodable(masks: Iterable[EncodedMask]) -> None:
    """Refuse packed masks without pycocotools, before anything is computed.

    Raises:
      DatasetError: with what to install.
    """
    if any(map(_is_packed, masks)):
        _coco_masks()


def _is_packed(encoded: EncodedMask) -> bool:
    return isinstance(encoded["counts"], str | bytes)


def _require_full(encoded: EncodedMask) -> None:
    height, width = encoded["size"]
    if not _is_packed(encoded) and sum(encoded["counts"]) != height * width:
        raise DatasetError(
            f"the runs of a mask of {width} x {height} pixels add up to {sum(encoded['counts'])}; "
            "download the annotations again"
        )


def _coco_masks() -> ModuleType:
    try:
        from pycocotools import mask  # imported where it is used, as few datasets need it
    except ImportError:
        raise DatasetError(
            "the masks of this dataset are packed and need pycocotools; install it with "
            "pip install -e '.[pointing]' in the clone"
        ) from None
    return mask
