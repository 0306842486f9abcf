"""Attention within one segment in VMEM, forward and backward, for the TPU kernel of streams.

Heads are side by side in whole tiles of lanes. A head is computed with all tiles that it overlaps;
its queries (or gradients) are zero in the lanes of other heads, so nothing is shifted.

Shapes in VMEM, with windows of `rows` rows (see `stream_windows`) and H heads of width d:

    q, k, v, o, do    (slots, LEAD + rows, H * d), fetched
    bias              (slots, LEAD + rows, QUERIES) float32, of each key, fetched if there is one
    o, dq, dk, dv     (slots, rows, H * d), written back; also dbias (slots, rows, QUERIES)
    lse               (slots, H, rows) float32
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from stts_jax.attention.masks import MASK_VALUE
from stts_jax.attention.softmax import dot, initial_m_l, softmax_gradient, softmax_step
from stts_jax.attention.tpu.stream_windows import (
    CHUNK,
    LEAD,
    Window,
    begin_tile,
    keep_tile,
    merge,
)

# Of one block of scores: queries are a tile's lanes, keys its sublanes. Blocks of two heights add
# up to nearly every multiple of their difference; those of one would overshoot by up to a block.
QUERIES = CHUNK
KEYS, FEWER_KEYS = CHUNK, 96
LANES = 128
# Heads that are computed at once: while one waits for a result, others use the units.
TOGETHER = 4


@dataclass(frozen=True)
class Head:
    """The lanes of one head among those of all.

    Of 16 heads of 72 lanes, eight are within one tile and eight overlap two: products over a head's
    tiles are over 192 lanes on average, of which 72 are its own.

    Attributes:
      number: of the head.
      width: d, lanes of a head.
      lanes: of all heads.
    """

    number: int
    width: int
    lanes: int

    @property
    def tiles(self) -> slice:
        """The lanes of the tiles that the head overlaps."""
        first, last = self.number * self.width, (self.number + 1) * self.width
        return slice(first // LANES * LANES, min(-(-last // LANES) * LANES, self.lanes))

    @property
    def size(self) -> int:
        """The number of these lanes."""
        tiles = self.tiles
        return int(tiles.stop) - int(tiles.start)

    def cut(self, x: jax.Array) -> jax.Array:
        """Returns the head's own lanes: (size, QUERIES) -> (d, QUERIES)."""
        first = self.number * self.width - self.tiles.start
        return x[first : first + self.width]

    def padded(self, x: jax.Array) -> jax.Array:
        """Returns the inverse of `cut`, with zeros: (d, QUERIES) -> (size, QUERIES)."""
        before = self.number * self.width - self.tiles.start
        return jnp.pad(x, ((before, self.size - self.width - before), (0, 0)))

    def holds(self, rows: int) -> jax.Array:
        """Returns (rows, size) bool, True in the head's own lanes."""
        lane = self.tiles.start + jax.lax.broadcasted_iota(jnp.int32, (rows, self.size), 1)
        first = self.number * self.width
        holds: jax.Array = (lane >= first) & (lane < first + self.width)
        return holds


def key_blocks(rows: Any) -> tuple[Any, Any]:
    """Returns the numbers of blocks of `KEYS` and `FEWER_KEYS` that cover rows with fewest keys.

    In steps of 32 keys a block has four or three; all numbers but 1, 2 and 5 are sums of these.

    Args:
      rows: int, or integers of any array type, from 0 on.
    """
    step = KEYS - FEWER_KEYS
    steps = -(-rows // step)
    steps += 2 * (steps == 1) + (steps == 2) + (steps == 5)
    fewer = -steps % (KEYS // step)
    return (steps - fewer * (FEWER_KEYS // step)) // (KEYS // step), fewer


def forward_segment(
    window: Window, heads: int, fetched: tuple[Any, ...], o: Any, lse: Any, carry: Any
) -> None:
    """Computes o and lse of a segment.

    Args:
      window: the segment.
      heads: H.
      fetched: q, k, v and perhaps bias.
      o, lse: to be written.
      carry: (TILE, H * d), see `stream_windows`.
    """
    q, k, v, bias = (*fetched, None)[:4]
    lanes = q.shape[-1]
    scale = (lanes // heads) ** -0.5
    begin_tile(window, carry, o)

    def of_queries(group: Sequence[Head], block: jax.Array) -> None:
        own = [_own(window, head, q, block) for head in group]

        def of_keys(first: jax.Array, size: int, sums: Any) -> Any:
            return [
                of_head(head, queries, first, size, *before)
                for head, (queries, _), before in zip(group, own, sums, strict=True)
            ]

        def of_head(
            head: Head,
            queries: jax.Array,
            first: jax.Array,
            size: int,
            m: jax.Array,
            l: jax.Array,
            acc: jax.Array,
        ) -> tuple[jax.Array, ...]:
            where = window.slot, _keys(first, size, LEAD), head.tiles
            s = _scores(window, k[where], queries, bias, first, scale)
            values = v[where]
            p, alpha, m, l = softmax_step(s, m, l, axis=0)
            more = head.cut(dot(values, p.astype(values.dtype), (0, 0)))
            return m, l, acc * alpha + more

        start = initial_m_l((1, QUERIES))
        sums = [(*start, jnp.zeros((head.width, QUERIES))) for head in group]
        sums = _each_key_block(window, of_keys, sums)
        rows = _rows(block, QUERIES)
        for head, (_, mask), (m, l, acc) in zip(group, own, sums, strict=True):
            merge(o, (window.slot, rows, head.tiles), mask, head.padded(acc / l).T)
            lse[window.slot, pl.ds(head.number, 1), rows] = m + jnp.log(l)

    _each_query_block(window, heads, lanes, of_queries)
    keep_tile(window, carry, o)


def backward_segment(
    window: Window,
    heads: int,
    fetched: tuple[Any, ...],
    lse: Any,
    gradients: tuple[Any, ...],
    carries: tuple[Any, ...],
    delta: Any,
    sums: tuple[Any, ...],
) -> None:
    """Computes the gradients of a segment; each block of scores is recomputed once for all three.

    Args:
      window: the segment.
      heads: H.
      fetched: q, k, v, o, do and perhaps bias.
      lse: of `forward_segment`.
      gradients: dq, dk, dv and perhaps dbias, which remains to be summed over its lanes.
      carries: of each gradient, (TILE, H * d or QUERIES).
      delta: (H, rows) float32 scratch.
      sums: of dk, dv and perhaps dbias, (rows, H * d or QUERIES) float32 scratch.
    """
    q, k, v, o, do, bias = (*fetched, None)[:6]
    dk_sum, dv_sum, dbias_sum = (*sums, None)[:3]
    lanes = q.shape[-1]
    scale = (lanes // heads) ** -0.5
    for carry, gradient in zip(carries, gradients, strict=True):
        begin_tile(window, carry, gradient)
    _each(window.blocks(CHUNK), lambda chunk: _clear(sums, chunk))
    _each(window.blocks(QUERIES), lambda block: _delta(window, heads, o, do, delta, block))

    def of_queries(group: Sequence[Head], block: jax.Array) -> None:
        own = [_own(window, head, q, block) for head in group]
        own_do = [_own(window, head, do, block)[0] for head in group]
        rows = _rows(block, QUERIES)

        def of_keys(first: jax.Array, size: int, dq_sums: Any) -> Any:
            return [
                of_head(head, queries, out_gradient, first, size, dq_sum)
                for head, (queries, _), out_gradient, dq_sum in zip(
                    group, own, own_do, dq_sums, strict=True
                )
            ]

        def of_head(
            head: Head,
            queries: jax.Array,
            out_gradient: jax.Array,
            first: jax.Array,
            size: int,
            dq_sum: jax.Array,
        ) -> jax.Array:
            row = pl.ds(head.number, 1)
            where = window.slot, _keys(first, size, LEAD), head.tiles
            own_keys = _keys(first, size)
            keys, values = k[where], v[where]
            s = _scores(window, keys, queries, bias, first, scale)
            p = jnp.exp(s - lse[window.slot, row, rows])
            dv_sum[own_keys, head.tiles] += dot(p.astype(out_gradient.dtype), out_gradient, (1, 0))
            dp = dot(values, out_gradient, (1, 1))
            ds = softmax_gradient(p, dp, delta[row, rows])
            if dbias_sum is not None:
                dbias_sum[own_keys] += ds
            ds = (ds * scale).astype(queries.dtype)
            dk_sum[own_keys, head.tiles] += dot(ds, queries, (1, 0))
            return dq_sum + head.cut(dot(keys, ds, (0, 0)))

        dq_sums = [jnp.zeros((head.width, QUERIES)) for head in group]
        dq_sums = _each_key_block(window, of_keys, dq_sums)
        for head, (_, mask), dq_sum in zip(group, own, dq_sums, strict=True):
            where = window.slot, rows, head.tiles
            merge(gradients[0], where, mask, head.padded(dq_sum).T)

    _each_query_block(window, heads, lanes, of_queries)

    def of_chunk(chunk: jax.Array) -> None:
        rows = _rows(chunk, CHUNK)
        for gradient, own in zip(gradients[1:], sums, strict=True):
            mask = window.holds(chunk * CHUNK, (CHUNK, own.shape[-1]))
            merge(gradient, (window.slot, rows), mask, own[rows])

    _each(window.blocks(CHUNK), of_chunk)
    for carry, gradient in zip(carries, gradients, strict=True):
        keep_tile(window, carry, gradient)


def _rows(number: jax.Array, size: int, lead: int = 0) -> Any:
    """Returns the rows of a block of queries, or of a chunk."""
    return pl.ds(pl.multiple_of(lead + number * size, size), size)


def _keys(first: jax.Array, size: int, lead: int = 0) -> Any:
    """Returns the rows of a block of keys."""
    return pl.ds(pl.multiple_of(lead + first, KEYS - FEWER_KEYS), size)


def _own(window: Window, head: Head, buffer: Any, block: jax.Array) -> tuple[Any, jax.Array]:
    """Returns a block of queries, zero outside the segment and the head, and where it is inside."""
    x = buffer[window.slot, _rows(block, QUERIES, LEAD), head.tiles]
    mask = window.holds(block * QUERIES, x.shape) & head.holds(QUERIES)
    return jnp.where(mask, x.astype(jnp.float32), 0.0).astype(x.dtype), mask


def _scores(
    window: Window, keys: jax.Array, queries: jax.Array, bias: Any, first: jax.Array, scale: float
) -> jax.Array:
    """Returns (keys, QUERIES) float32 masked scores of the keys from row `first` on."""
    s = dot(keys, queries, (1, 1)) * scale
    if bias is not None:
        s += bias[window.slot, _keys(first, keys.shape[0], LEAD)]
    return jnp.where(window.holds(first, s.shape), s, MASK_VALUE)


def _delta(window: Window, heads: int, o: Any, do: Any, delta: Any, block: jax.Array) -> None:
    """Computes delta of a block of queries, the sums over each head's lanes in one product."""
    rows = window.slot, _rows(block, QUERIES, LEAD)
    both = o[rows].astype(jnp.float32) * do[rows].astype(jnp.float32)
    # Queries of other segments have no gradient, so their scores must have none.
    both = jnp.where(window.holds(block * QUERIES, both.shape), both, 0.0)
    lanes = both.shape[-1]
    lane = jax.lax.broadcasted_iota(jnp.int32, (heads, lanes), 1)
    head = jax.lax.broadcasted_iota(jnp.int32, (heads, lanes), 0)
    width = lanes // heads
    own = (lane >= head * width) & (lane < head * width + width)
    delta[:, _rows(block, QUERIES)] = jax.lax.dot_general(
        own.astype(jnp.float32),
        both,
        (((1,), (1,)), ((), ())),
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )


def _clear(sums: tuple[Any, ...], chunk: jax.Array) -> None:
    for own in sums:
        own[_rows(chunk, CHUNK)] = jnp.zeros((CHUNK, own.shape[-1]), own.dtype)


def _each_key_block(window: Window, run: Callable[..., Any], sums: Any) -> Any:
    """Returns the sums over all keys; `run` takes a block's first row, its size and the sums."""
    many, fewer = key_blocks(window.end - window.begin)

    def of_many(number: jax.Array, sums: Any) -> Any:
        return run(number * KEYS, KEYS, sums)

    def of_fewer(number: jax.Array, sums: Any) -> Any:
        return run(many * KEYS + number * FEWER_KEYS, FEWER_KEYS, sums)

    return jax.lax.fori_loop(0, fewer, of_fewer, jax.lax.fori_loop(0, many, of_many, sums))


def _each_query_block(window: Window, heads: int, lanes: int, run: Callable[..., None]) -> None:
    """Runs something for each block of queries of each group of heads."""
    for first in range(0, heads, TOGETHER):
        numbers = range(first, min(first + TOGETHER, heads))
        group = [Head(number, lanes // heads, lanes) for number in numbers]
        _each(window.blocks(QUERIES), lambda block, group=group: run(group, block))


def _each(count: jax.Array, run: Callable[..., None]) -> None:
    jax.lax.fori_loop(0, count, lambda number, _: run(number), None)
