"""Copies a stream's segments into VMEM one after the other, and their results back to HBM.

A segment may start at any row of the stream, but memory is copied in whole tiles. So its window
starts at the tile in which it starts. Rows of that tile that belong to earlier segments are carried
over from their results (`carry`), and only complete tiles are written. Each row is written once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

# Rows of a tile of 16-bit numbers in HBM; of float32, two tiles.
TILE = 16
# Rows that are copied at once, and the queries of a block of scores.
CHUNK = 128
# A chunk at the end of the stream is fetched from before a window's start.
LEAD = CHUNK
# Starts (or awaits) each of some copies, one after the other.
EachCopy = Callable[[Callable[[Any], None]], None]
# Windows of each array in VMEM: one of this segment, one of the next or the previous one.
SLOTS = 2


def window_rows(longest: int) -> int:
    """Returns the rows of a window that any segment of up to `longest` tokens fits into."""
    return -(-(longest + TILE - 1) // CHUNK) * CHUNK


def part_plan(starts: jax.Array, rows: int, parts: int) -> jax.Array:
    """Splits a stream into one or two parts; each of a chip's cores computes one.

    Args:
      starts: (B, T + 1) int32, see `segment_starts`.
      rows: S, of the stream, whole tiles.
      parts: 1 or 2.

    Returns:
      (B, parts, 4) int32: first segment, the one after the last, and the first row and the one
      after the last that it writes. Two parts may share segments, but no row.
    """
    segments = starts.shape[1] - 1
    zero = jnp.zeros_like(starts[:, 0])
    every, whole = zero + segments, zero + rows
    if parts == 1:
        return jnp.stack([zero, every, zero, whole], -1)[:, None]
    own = starts[:, :-1]
    middle = jnp.maximum((own <= starts[:, -1:] // 2).sum(-1) - 1, 0).astype(jnp.int32)
    border = -(-jnp.take_along_axis(own, middle[:, None], 1)[:, 0] // TILE) * TILE
    before = (own < border[:, None]).sum(-1).astype(jnp.int32)
    upper = jnp.stack([zero, before, zero, border], -1)
    return jnp.stack([upper, jnp.stack([middle, every, border, whole], -1)], 1)


@dataclass(frozen=True)
class Window:
    """A segment in VMEM.

    Attributes:
      segment: its number.
      slot: of the buffers.
      start: its first row in the stream.
      end: the row behind its last.
    """

    segment: jax.Array
    slot: jax.Array
    start: jax.Array
    end: jax.Array

    @property
    def begin(self) -> jax.Array:
        """The row of the stream at which the window starts."""
        return whole_tiles(self.start)

    def blocks(self, size: int) -> jax.Array:
        """Returns the number of blocks of so many rows, 0 for an empty segment."""
        return jnp.where(self.end > self.start, pl.cdiv(self.end - self.begin, size), 0)

    def holds(self, first: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Returns whether rows (axis 0) from the window's row `first` on are the segment's."""
        row = self.begin + first + jax.lax.broadcasted_iota(jnp.int32, shape, 0)
        return (row >= self.start) & (row < self.end)


def whole_tiles(row: jax.Array) -> jax.Array:
    """Returns the first row of a row's tile."""
    first: jax.Array = pl.multiple_of(row // TILE * TILE, TILE)
    return first


@dataclass(frozen=True)
class Walk:
    """Visits one part of one row's stream, segment by segment.

    Attributes:
      row: of the batch.
      part: of the row's stream.
      rows: S, of the stream.
      starts: (B, T + 1), see `part_plan`.
      plan: (B, parts, 4), see there.
    """

    row: jax.Array
    part: jax.Array
    rows: int
    starts: Any
    plan: Any

    def window(self, segment: jax.Array, slot: jax.Array) -> Window:
        """Returns the window of a segment."""
        return Window(
            segment, slot, self.starts[self.row, segment], self.starts[self.row, segment + 1]
        )

    def fetched(
        self, window: Window, streams: Sequence[Any], buffers: Sequence[Any], sems: Any
    ) -> EachCopy:
        """Returns the copies that fill a window of each stream."""

        def each(run: Callable[[Any], None]) -> None:
            def of_chunk(number: jax.Array, _: None) -> None:
                from_row = jnp.minimum(window.begin + CHUNK * number, self.rows - CHUNK)
                from_row = pl.multiple_of(from_row, TILE)
                to_row = pl.multiple_of(LEAD + from_row - window.begin, TILE)
                for index, (stream, buffer) in enumerate(zip(streams, buffers, strict=True)):
                    run(
                        pltpu.make_async_copy(
                            stream.at[self.row, pl.ds(from_row, CHUNK), :],
                            buffer.at[window.slot, pl.ds(to_row, CHUNK), :],
                            sems.at[index, window.slot],
                        )
                    )

            jax.lax.fori_loop(0, window.blocks(CHUNK), of_chunk, None)

        return each

    def written(
        self, window: Window, buffers: Sequence[Any], streams: Sequence[Any], sems: Any
    ) -> EachCopy:
        """Returns the copies that write a window's complete tiles, as far as this part has them."""
        low, high = self.plan[self.row, self.part, 2], self.plan[self.row, self.part, 3]
        first = jnp.maximum(window.begin, low)
        last = jnp.minimum(whole_tiles(window.end), high)
        return self._copies(
            first, last, first - window.begin, TILE, window.slot, buffers, streams, sems
        )

    def _copies(
        self,
        first: jax.Array,
        last: jax.Array,
        offset: jax.Array | int,
        stride: int,
        slot: Any,
        buffers: Sequence[Any],
        streams: Sequence[Any],
        sems: Any,
    ) -> EachCopy:
        """Returns the copies of rows `first` to `last - 1`, in chunks and then single tiles.

        They are read from row `offset` of a buffer's slot on, each tile `stride` after the other.
        """
        tiles = jnp.maximum(last - first, 0) // TILE
        chunks, many = tiles // (CHUNK // TILE), CHUNK // TILE

        def each(run: Callable[[Any], None]) -> None:
            def copy(tile: jax.Array, rows: int) -> None:
                to_row = pl.multiple_of(first + TILE * tile, TILE)
                from_row = pl.multiple_of(offset + stride * tile, TILE)
                for index, (buffer, stream) in enumerate(zip(buffers, streams, strict=True)):
                    run(
                        pltpu.make_async_copy(
                            buffer.at[slot, pl.ds(from_row, rows), :],
                            stream.at[self.row, pl.ds(to_row, rows), :],
                            sems.at[index, slot],
                        )
                    )

            jax.lax.fori_loop(0, chunks, lambda i, _: copy(many * i, CHUNK), None)
            jax.lax.fori_loop(chunks * many, tiles, lambda i, _: copy(i, TILE), None)

        return each

    def run(
        self,
        fetched: Callable[[Window], EachCopy],
        compute: Callable[[Window], None],
        written: Callable[[Window], EachCopy],
    ) -> None:
        """Computes all segments; meanwhile the next is fetched and the previous one written."""
        first, last = self.plan[self.row, self.part, 0], self.plan[self.row, self.part, 1]

        def window(segment: jax.Array) -> Window:
            return self.window(segment, (segment - first) % SLOTS)

        def when(inside: jax.Array, segment: jax.Array, run: Callable[[Window], None]) -> None:
            pl.when(inside)(lambda: run(window(segment)))

        def step(segment: jax.Array, _: None) -> None:
            when(segment + 1 < last, segment + 1, lambda w: fetched(w)(_start))
            own = window(segment)
            fetched(own)(_wait)
            when(segment - SLOTS >= first, segment - SLOTS, lambda w: written(w)(_wait))
            pl.when(own.end > own.start)(lambda: compute(own))
            written(own)(_start)

        when(first < last, first, lambda w: fetched(w)(_start))
        jax.lax.fori_loop(first, last, step, None)
        for back in range(SLOTS, 0, -1):
            when(last - back >= first, last - back, lambda w: written(w)(_wait))

    def finish(
        self, carries: Sequence[Any], buffers: Sequence[Any], streams: Sequence[Any], sems: Any
    ) -> None:
        """Writes the rest of the last segment's last tile, and zeros to the padding behind it."""
        last, low, high = (self.plan[self.row, self.part, number] for number in (1, 2, 3))
        end = self.starts[self.row, last]
        first = jnp.maximum(whole_tiles(end), low)
        for carry, buffer in zip(carries, buffers, strict=True):
            left = first + jax.lax.broadcasted_iota(jnp.int32, carry.shape, 0) < end
            buffer[1, :CHUNK] = jnp.zeros((CHUNK, carry.shape[1]), buffer.dtype)
            tile = jnp.where(left, carry[...].astype(jnp.float32), 0.0)
            buffer[0, :TILE] = tile.astype(buffer.dtype)
        behind = jnp.minimum(first + TILE, high)
        for from_row, to_row, slot in ((first, behind, 0), (behind, high, 1)):
            copies = self._copies(from_row, to_row, 0, 0, slot, buffers, streams, sems)
            copies(_start)
            copies(_wait)


def _start(copy: Any) -> None:
    copy.start()


def _wait(copy: Any) -> None:
    copy.wait()


def begin_tile(window: Window, carry: Any, buffer: Any) -> None:
    """Copies to a segment's first tile the results of earlier segments that share it."""
    buffer[window.slot, :TILE] = carry[...]


def keep_tile(window: Window, carry: Any, buffer: Any) -> None:
    """Keeps a segment's last tile for the next window, if it is not complete."""
    first = pl.multiple_of(whole_tiles(window.end) - window.begin, TILE)

    @pl.when(window.end % TILE != 0)
    def _() -> None:
        carry[...] = buffer[window.slot, pl.ds(first, TILE)]


def merge(buffer: Any, where: tuple[Any, ...], mask: jax.Array, new: jax.Array) -> None:
    """Replaces the values where the mask is True; selected in float32, which every chip can."""
    old = buffer[where].astype(jnp.float32)
    buffer[where] = jnp.where(mask, new, old).astype(buffer.dtype)
