"""Frames as bytes: without loss, which training copies, or as JPEG."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import PIL.Image

from stts_jax.data.datasets.base import DatasetError
from stts_jax.data.shards.record import Part, RecordError

LOSSLESS, JPEG = "lossless", "jpeg"
DEFAULT_QUALITY = 95


@dataclass(frozen=True)
class FrameCoding:
    """How frames are stored.

    Attributes:
      quality: of JPEG, 1 to 100; None for none of their bits lost.
    """

    quality: int | None = None

    @classmethod
    def named(cls, name: str) -> FrameCoding:
        """Returns the coding of `lossless`, `jpeg` or `jpeg:QUALITY`.

        Raises:
          DatasetError: if it is none of these.
        """
        kind, colon, number = name.partition(":")
        if name == LOSSLESS:
            return cls()
        if kind == JPEG and not colon:
            return cls(DEFAULT_QUALITY)
        if kind == JPEG and number.isascii() and number.isdigit() and 1 <= int(number[:9]) <= 100:
            return cls(int(number))
        raise DatasetError(
            f"--frames is '{name[:80]}'; use lossless, jpeg, or jpeg:QUALITY with 1 to 100"
        )

    def __str__(self) -> str:
        return LOSSLESS if self.quality is None else f"{JPEG}:{self.quality}"

    def encoded(self, frames: np.ndarray) -> list[Part]:
        """Returns the parts of (n, H, W, 3) uint8 frames."""
        if self.quality is None:
            return [np.ascontiguousarray(frames).tobytes()]
        return [_jpeg(frame, self.quality) for frame in frames]

    def decoded(self, parts: Sequence[Part], shape: tuple[int, ...]) -> np.ndarray:
        """Returns the frames; without loss they are not copied, and can't be written.

        Raises:
          RecordError: if the parts are not frames of that shape.
        """
        if len(shape) != 4 or shape[3] != 3 or min(shape) < 1:
            raise RecordError(f"its frames would have the shape {shape}")
        if self.quality is None:
            if len(parts) != 1 or len(parts[0]) != math.prod(shape):
                raise RecordError(f"its parts are not frames of the shape {shape}")
            return np.frombuffer(parts[0], np.uint8).reshape(shape)
        if len(parts) != shape[0]:
            raise RecordError(f"it has {len(parts)} pictures for {shape[0]} frames")
        return np.stack([_frame(part, shape[1:3]) for part in parts])


def _jpeg(frame: np.ndarray, quality: int) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(frame).save(file, "JPEG", quality=quality, subsampling=0)
    return file.getvalue()


def _frame(part: Part, size: tuple[int, ...]) -> np.ndarray:
    try:
        with PIL.Image.open(io.BytesIO(part), formats=("JPEG",)) as picture:
            # Known from its header, before memory is taken for its pixels.
            if (picture.height, picture.width, picture.mode) != (*size, "RGB"):
                raise RecordError(f"a frame is a picture of {picture.size} in {picture.mode}")
            return np.asarray(picture)
    except RecordError:
        raise
    except Exception as error:  # every fault of a picture has a kind of its own
        raise RecordError(f"a frame is not a JPEG picture ({str(error)[:80]})") from error
