"""Quantises a parameter while it is read: no more than a few blocks of it are ever wider than int8.

A scale needs all weights of its channel, also those that other devices hold. So the first part with
a channel reads the channel whole, and the parts beside it take the scale from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from stts_jax.layers.int8_linear import scale_of
from stts_jax.training.checkpointing.checkpoint_errors import CheckpointError

# First index along each axis, and the one after the last.
Bounds = tuple[tuple[int, int], ...]
# Reads a part as float32.
Read = Callable[[Bounds], np.ndarray]
# Cuts a part so that an axis stays whole, or so that none has to (None).
Cut = Callable[[Bounds, int | None], Iterator[Bounds]]


class Int8Reader:
    """Reads the parts of a parameter as int8, with the scales of their channels."""

    def __init__(
        self,
        name: str,
        shape: tuple[int, ...],
        axis: int,
        *,
        read: Read,
        cut: Cut,
        empty: Callable[[tuple[int, ...], np.dtype], np.ndarray],
    ) -> None:
        """Makes a reader.

        Args:
          name: of the parameter, for errors.
          shape: of the parameter.
          axis: -1 or -2, which the weights of a channel lie along.
          read: returns a part of the parameter as float32, which may be overwritten.
          cut: yields the parts of a part that are read at a time.
          empty: makes an array.
        """
        self._name = name
        self._axis = axis + len(shape)
        self._whole = (0, shape[axis])
        self._read, self._cut, self._empty = read, cut, empty
        self._scales: dict[Bounds, np.ndarray] = {}

    def part(self, bounds: Bounds, advance: Callable[[int], Any]) -> np.ndarray:
        """Returns a part as int8; `advance` is called with its bytes as they are read.

        Raises:
          CheckpointError: for values that are not finite.
        """
        values = self._empty(_sizes(bounds), np.dtype(np.int8))
        channels = self._without_axis(bounds)
        known = channels in self._scales
        if not known:
            self._scales[channels] = self._empty(_sizes(channels), np.dtype(np.float32))
        scales, own = self._scales[channels], bounds[self._axis]
        span = bounds if known else self._with_axis(bounds, self._whole)
        for group in self._cut(span, None if known else self._axis):
            block = self._read(group)
            scale = scales[_within(self._without_axis(group), channels)]
            if not known:
                scale[...] = self._scale(block)
            taken = group if known else self._with_axis(group, own)
            block = block[_within(taken, group)]
            np.divide(block, np.expand_dims(scale, self._axis), out=block)
            np.rint(block, out=block)
            values[_within(taken, bounds)] = block  # whole numbers from -127 to 127
            advance(block.size)
        return values

    def scale(self, channels: Bounds, advance: Callable[[int], Any]) -> np.ndarray:
        """Returns the scales of channels, of which a part was read or is read for them."""
        if channels not in self._scales:
            bounds = list(channels)
            bounds.insert(self._axis, (0, 1))
            self.part(tuple(bounds), lambda _: None)
        advance(self._scales[channels].nbytes)
        return self._scales[channels]

    def _scale(self, block: np.ndarray) -> np.ndarray:
        largest = np.maximum(block.max(self._axis), -block.min(self._axis))
        if not np.isfinite(largest).all():
            raise CheckpointError(
                f"parameter '{self._name}' has values that are not finite, which int8 can't hold; "
                "leave out --weights int8, or take another checkpoint"
            )
        scale: np.ndarray = scale_of(largest)
        return scale

    def _without_axis(self, bounds: Bounds) -> Bounds:
        return (*bounds[: self._axis], *bounds[self._axis + 1 :])

    def _with_axis(self, bounds: Bounds, side: tuple[int, int]) -> Bounds:
        return (*bounds[: self._axis], side, *bounds[self._axis + 1 :])


def _sizes(bounds: Bounds) -> tuple[int, ...]:
    return tuple(stop - start for start, stop in bounds)


def _within(bounds: Bounds, of: Bounds) -> tuple[slice, ...]:
    """Returns the index of a part in an array that holds the part `of`."""
    return tuple(
        slice(start - origin, stop - origin)
        for (start, stop), (origin, _) in zip(bounds, of, strict=True)
    )
