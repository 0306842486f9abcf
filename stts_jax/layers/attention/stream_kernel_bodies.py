"""What the TPU kernel of streams does with a segment in VMEM, forward and backward.

Heads lie side by side in whole tiles of lanes. A head is taken with all tiles that it lies in, and
queries (or gradients) are zero in lanes of its neighbours, so nothing is shifted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from stts_jax.layers.attention.masks import FORBIDDEN
from stts_jax.layers.attention.stream_kernel_blocks import (
    FEWER_KEYS,
    KEYS,
    QUERIES,
    Head,
    key_blocks,
)
from stts_jax.layers.attention.stream_windows import (
    CHUNK,
    LEAD,
    Window,
    begin_tile,
    keep_tile,
    merge,
)
from stts_jax.layers.attention.tiles import product

# Heads that are computed at once: what one waits for leaves time for the others.
TOGETHER = 4


def _rows(number: jax.Array, size: int, lead: int = 0) -> Any:
    return pl.ds(pl.multiple_of(lead + number * size, size), size)


def _keys(first: jax.Array, size: int, lead: int = 0) -> Any:
    return pl.ds(pl.multiple_of(lead + first, KEYS - FEWER_KEYS), size)


def _own(window: Window, head: Head, buffer: Any, number: jax.Array) -> tuple[Any, jax.Array]:
    """A block of queries, zero elsewhere than in the segment and the head, and where it isn't."""
    rows = buffer[window.slot, _rows(number, QUERIES, LEAD), head.tiles]
    mask = window.holds(number * QUERIES, rows.shape) & head.holds(QUERIES)
    return jnp.where(mask, rows.astype(jnp.float32), 0.0).astype(rows.dtype), mask


def _scores(
    window: Window, key: jax.Array, query: jax.Array, bias: Any, first: jax.Array, scale: float
) -> jax.Array:
    """(keys, QUERIES) float32 of keys from row `first` on; those of others are forbidden."""
    scores = product(key, query, (1, 1)) * scale
    if bias is not None:
        scores += bias[window.slot, _keys(first, key.shape[0], LEAD)]
    return jnp.where(window.holds(first, scores.shape), scores, FORBIDDEN)


def _each_key_block(window: Window, run: Any, sums: Any) -> Any:
    """Sums over all keys; `run` takes a block's first row, its keys and the sums before it."""
    many, fewer = key_blocks(window.end - window.begin)

    def of_many(number: jax.Array, sums: Any) -> Any:
        return run(number * KEYS, KEYS, sums)

    def of_fewer(number: jax.Array, sums: Any) -> Any:
        return run(many * KEYS + number * FEWER_KEYS, FEWER_KEYS, sums)

    return jax.lax.fori_loop(0, fewer, of_fewer, jax.lax.fori_loop(0, many, of_many, sums))


def forward_segment(
    window: Window,
    heads: int,
    fetched: tuple[Any, ...],
    out: Any,
    log_total: Any,
    carry: Any,
) -> None:
    """Attention within a segment.

    Args:
      window: where it lies.
      heads: H.
      fetched: queries, keys and values, (slots, LEAD + rows, H * d), and the bias of each key, if
        any, (slots, LEAD + rows, QUERIES) float32.
      out: (slots, rows, H * d).
      log_total: (slots, H, rows) float32, logarithms of the softmax's sums.
      carry: (TILE, H * d), see `stream_windows`.
    """
    queries, keys, values, bias = (*fetched, None)[:4]
    lanes = queries.shape[-1]
    scale = (lanes // heads) ** -0.5
    begin_tile(window, carry, out)

    def of_queries(group: Sequence[Head], number: jax.Array) -> None:
        own = [_own(window, head, queries, number) for head in group]

        def of_keys(first: jax.Array, size: int, sums: Any) -> Any:
            return [
                attend(head, query, first, size, *before)
                for head, (query, _), before in zip(group, own, sums, strict=True)
            ]

        def attend(
            head: Head,
            query: jax.Array,
            first: jax.Array,
            size: int,
            largest: jax.Array,
            total: jax.Array,
            attended: jax.Array,
        ) -> Any:
            down = window.slot, _keys(first, size, LEAD), head.tiles
            scores = _scores(window, keys[down], query, bias, first, scale)
            value = values[down]
            now = jnp.maximum(largest, scores.max(0, keepdims=True))
            weights, left = jnp.exp(scores - now), jnp.exp(largest - now)
            more = head.cut(product(value, weights.astype(value.dtype), (0, 0)))
            return now, total * left + weights.sum(0, keepdims=True), attended * left + more

        nothing = jnp.full((1, QUERIES), FORBIDDEN), jnp.zeros((1, QUERIES))
        none = [(*nothing, jnp.zeros((head.width, QUERIES))) for head in group]
        sums = _each_key_block(window, of_keys, none)
        across = _rows(number, QUERIES)
        for head, (_, mask), (largest, total, attended) in zip(group, own, sums, strict=True):
            new = head.padded(attended / total).T
            merge(out, (window.slot, across, head.tiles), mask, new)
            log_total[window.slot, pl.ds(head.number, 1), across] = largest + jnp.log(total)

    _each_block(window, heads, lanes, of_queries)
    keep_tile(window, carry, out)


def backward_segment(
    window: Window,
    heads: int,
    fetched: tuple[Any, ...],
    log_total: Any,
    gradients: tuple[Any, ...],
    carries: tuple[Any, ...],
    share: Any,
    sums: tuple[Any, ...],
) -> None:
    """Gradients of a segment; each block of scores is made once for all three.

    Args:
      window: where it lies.
      heads: H.
      fetched: queries, keys, values, the output and its gradient, (slots, LEAD + rows, H * d), and
        the bias of each key, if any, (slots, LEAD + rows, QUERIES) float32.
      log_total: (slots, H, rows) float32, of `forward_segment`.
      gradients: of queries, keys and values, (slots, rows, H * d), and of the bias, if any,
        (slots, rows, QUERIES) float32, to be summed over its lanes.
      carries: of each, (TILE, H * d or QUERIES).
      share: (heads, rows) float32 scratch, of each query its output times the gradient.
      sums: of keys, values and bias, (rows, H * d or QUERIES) float32 scratch.
    """
    queries, keys, values, outs, out_gradients, bias = (*fetched, None)[:6]
    key_sums, value_sums, bias_sums = (*sums, None)[:3]
    lanes = queries.shape[-1]
    scale = (lanes // heads) ** -0.5
    for carry, gradient in zip(carries, gradients, strict=True):
        begin_tile(window, carry, gradient)
    _each(window.blocks(CHUNK), lambda number: _clear(sums, number))
    _each(
        window.blocks(QUERIES),
        lambda number: _shares(window, heads, outs, out_gradients, share, number),
    )

    def of_queries(group: Sequence[Head], number: jax.Array) -> None:
        own = [_own(window, head, queries, number) for head in group]
        own_gradients = [_own(window, head, out_gradients, number)[0] for head in group]
        across = _rows(number, QUERIES)

        def of_keys(first: jax.Array, size: int, query_sums: Any) -> Any:
            return [
                of_head(head, query, gradient, first, size, before)
                for head, (query, _), gradient, before in zip(
                    group, own, own_gradients, query_sums, strict=True
                )
            ]

        def of_head(
            head: Head,
            query: jax.Array,
            gradient: jax.Array,
            first: jax.Array,
            size: int,
            query_sum: jax.Array,
        ) -> jax.Array:
            row = pl.ds(head.number, 1)
            down, place = _keys(first, size, LEAD), _keys(first, size)
            key, value = keys[window.slot, down, head.tiles], values[window.slot, down, head.tiles]
            scores = _scores(window, key, query, bias, first, scale)
            weights = jnp.exp(scores - log_total[window.slot, row, across])
            more = product(weights.astype(gradient.dtype), gradient, (1, 0))
            value_sums[place, head.tiles] += more
            of_weights = product(value, gradient, (1, 1))
            of_scores = weights * (of_weights - share[row, across])
            if bias_sums is not None:
                bias_sums[place] += of_scores
            of_scores = (of_scores * scale).astype(query.dtype)
            key_sums[place, head.tiles] += product(of_scores, query, (1, 0))
            return query_sum + head.cut(product(key, of_scores, (0, 0)))

        none = [jnp.zeros((head.width, QUERIES)) for head in group]
        query_sums = _each_key_block(window, of_keys, none)
        for head, (_, mask), query_sum in zip(group, own, query_sums, strict=True):
            where = window.slot, across, head.tiles
            merge(gradients[0], where, mask, head.padded(query_sum).T)

    _each_block(window, heads, lanes, of_queries)

    def of_rows(number: jax.Array) -> None:
        across = _rows(number, CHUNK)
        for gradient, own in zip(gradients[1:], sums, strict=True):
            mask = window.holds(number * CHUNK, (CHUNK, own.shape[-1]))
            merge(gradient, (window.slot, across), mask, own[across])

    _each(window.blocks(CHUNK), of_rows)
    for carry, gradient in zip(carries, gradients, strict=True):
        keep_tile(window, carry, gradient)


def _clear(sums: tuple[Any, ...], number: jax.Array) -> None:
    for own in sums:
        own[_rows(number, CHUNK)] = jnp.zeros((CHUNK, own.shape[-1]), own.dtype)


def _shares(
    window: Window, heads: int, outs: Any, gradients: Any, share: Any, number: jax.Array
) -> None:
    """Sums over each head's lanes, all heads in one product."""
    rows = window.slot, _rows(number, QUERIES, LEAD)
    both = outs[rows].astype(jnp.float32) * gradients[rows].astype(jnp.float32)
    # Queries of other segments have no gradient, so no score of theirs may have one.
    both = jnp.where(window.holds(number * QUERIES, both.shape), both, 0.0)
    lanes = both.shape[-1]
    lane = jax.lax.broadcasted_iota(jnp.int32, (heads, lanes), 1)
    head = jax.lax.broadcasted_iota(jnp.int32, (heads, lanes), 0)
    width = lanes // heads
    own = (lane >= head * width) & (lane < head * width + width)
    share[:, _rows(number, QUERIES)] = jax.lax.dot_general(
        own.astype(jnp.float32),
        both,
        (((1,), (1,)), ((), ())),
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )


def _each_block(window: Window, heads: int, lanes: int, run: Any) -> None:
    for first in range(0, heads, TOGETHER):
        numbers = range(first, min(first + TOGETHER, heads))
        group = [Head(number, lanes // heads, lanes) for number in numbers]
        _each(window.blocks(QUERIES), lambda block, group=group: run(group, block))


def _each(count: jax.Array, run: Any) -> None:
    jax.lax.fori_loop(0, count, lambda number, _: run(number), None)
