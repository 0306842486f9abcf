"""A Pallas kernel for GPUs, by way of Triton: attention within the segments of a stream.

One program has a block of a segment's queries and a head, and loops over as many blocks of keys as
that segment has, where they lie: a GPU reads from any place on, so nothing is moved into frames of
a common length, and blocks begin where segments do. The backward pass is two kernels, one for
queries and one for keys, which make the scores anew.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from stts_jax.layers.attention.masks import FORBIDDEN
from stts_jax.layers.attention.stream_frames import segment_starts
from stts_jax.layers.attention.triton_loops import (
    attend_blocks,
    attended,
    key_gradients,
    nothing_yet,
    query_gradient,
)
from stts_jax.layers.attention.triton_tiles import (
    SIZE,
    read_numbers,
    read_places,
    times,
    write_numbers,
    write_places,
    zeros,
)


def blocks_of(length: Any) -> Any:
    """Blocks that a segment of this length is visited in, by queries as by keys."""
    return pl.cdiv(length, SIZE)


def visited_scores(lengths: np.ndarray) -> int:
    """Scores that are made for segments of these lengths, of each head; ideal are their squares."""
    return int(((blocks_of(lengths) * SIZE) ** 2).sum())


def stream_triton(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment_ids: jax.Array,
    *,
    longest: int,
    segments: int,
    interpret: bool = False,
) -> jax.Array:
    """As `stream_attention`.

    Args:
      query, key, value, segment_ids: see there.
      longest: tokens of the longest segment; what a longer one has behind it, and its gradients,
        would be of no meaning, and not a number at times.
      segments: ids are below this.
      interpret: run the kernel's Python on any device, slowly.
    """
    rows, length = segment_ids.shape
    starts = segment_starts(segment_ids, segments)
    starts = starts + length * jnp.arange(rows, dtype=jnp.int32)[:, None]
    bounds = jnp.stack([starts[:, :-1], starts[:, 1:]]).reshape(2, -1)
    flat = (x.reshape(-1, *x.shape[2:]) for x in (query, key, value))
    out = _attend(*flat, segment_ids.reshape(-1) >= 0, bounds, longest, interpret)
    return out.reshape(query.shape)


@partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    is_token: jax.Array,
    bounds: jax.Array,
    longest: int,
    interpret: bool,
) -> jax.Array:
    """Of (R, H, d), (R,) bool and (2, segments) int32: first place, and the one behind the last."""
    return _forward(query, key, value, is_token, bounds, longest, interpret)[0]


def _forward(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    is_token: jax.Array,
    bounds: jax.Array,
    longest: int,
    interpret: bool,
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    places, heads, width = query.shape
    out, log_total = _call(
        partial(_forward_kernel, scale=width**-0.5),
        [value, jax.ShapeDtypeStruct((heads, places), jnp.float32)],
        bounds,
        heads,
        longest,
        interpret,
    )(bounds, query, key, value)
    out = _of_tokens(out, is_token)
    return out, (query, key, value, is_token, bounds, out, log_total)


def _backward(
    longest: int, interpret: bool, kept: tuple[jax.Array, ...], gradient: jax.Array
) -> tuple[jax.Array | None, ...]:
    query, key, value, is_token, bounds, out, log_total = kept
    heads, width = query.shape[1:]
    share = (gradient.astype(jnp.float32) * out.astype(jnp.float32)).sum(-1).T
    arrays = (bounds, query, key, value, gradient.astype(value.dtype), log_total, share)
    scale = width**-0.5
    of_query = _call(
        partial(_query_kernel, scale=scale), [query], bounds, heads, longest, interpret
    )(*arrays)
    of_keys = _call(
        partial(_key_kernel, scale=scale), [key, value], bounds, heads, longest, interpret
    )(*arrays)
    return *(_of_tokens(x, is_token) for x in (*of_query, *of_keys)), None, None


_attend.defvjp(_forward, _backward)


def _of_tokens(x: jax.Array, is_token: jax.Array) -> jax.Array:
    """0 at padding, where no program writes."""
    return jnp.where(is_token[:, None, None], x, 0)


def _call(
    kernel: Callable[..., None],
    outputs: list[Any],
    bounds: jax.Array,
    heads: int,
    longest: int,
    interpret: bool,
) -> Callable[..., Any]:
    return pl.pallas_call(
        kernel,
        grid=(blocks_of(longest), bounds.shape[1], heads),
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in outputs],
        compiler_params=plgpu.CompilerParams(num_warps=4, num_stages=2),
        interpret=interpret,
        name=f"stream{kernel.func.__name__}",
    )


def _in_segment(bounds: Any, body: Callable[[Any, Any, Any, Any], None]) -> None:
    """Run `body` with the first place of this program's block, the segment's bounds and the head.

    Not at all where the segment is shorter than the longest and ends before the block.
    """
    segment = pl.program_id(1)
    start, end = bounds[0, segment], bounds[1, segment]
    first, head = start + pl.program_id(0) * SIZE, pl.program_id(2)

    @pl.when(first < end)
    def _() -> None:
        body(first, start, end, head)


def _blocks(start: Any, end: Any) -> tuple[Any, Any]:
    return 0, blocks_of(end - start)


def _behind(start: Any, end: Any) -> Callable[[Any, jax.Array], jax.Array]:
    """Hides what is behind the segment, of scores with the block's places across."""

    def hide(number: Any, scores: jax.Array) -> jax.Array:
        places = start + number * SIZE + jax.lax.broadcasted_iota(jnp.int32, scores.shape, 1)
        return jnp.where(places < end, scores, FORBIDDEN)

    return hide


def _forward_kernel(
    bounds: Any, query: Any, key: Any, value: Any, out: Any, log_total: Any, *, scale: float
) -> None:
    def body(first: Any, start: Any, end: Any, head: Any) -> None:
        def read(number: Any) -> Any:
            at = start + number * SIZE
            return tuple(read_places(x, at, SIZE, end, head) for x in (key, value))

        queries = read_places(query, first, SIZE, end, head)
        sums = nothing_yet(SIZE, query.shape[-1])
        sums = attend_blocks(_blocks(start, end), sums, queries, read, _behind(start, end), scale)
        values, logs = attended(sums)
        write_places(out, first, end, head, values)
        write_numbers(log_total, first, end, head, logs)

    _in_segment(bounds, body)


def _query_kernel(
    bounds: Any,
    query: Any,
    key: Any,
    value: Any,
    gradient: Any,
    log_total: Any,
    share: Any,
    of_query: Any,
    *,
    scale: float,
) -> None:
    def body(first: Any, start: Any, end: Any, head: Any) -> None:
        def read(number: Any) -> Any:
            at = start + number * SIZE
            return tuple(read_places(x, at, SIZE, end, head) for x in (key, value))

        queries, gradients = (read_places(x, first, SIZE, end, head) for x in (query, gradient))
        logs, shares = (read_numbers(x, first, SIZE, end, head) for x in (log_total, share))
        sums = query_gradient(
            _blocks(start, end),
            zeros(SIZE, query.shape[-1]),
            queries,
            gradients,
            logs,
            shares,
            read,
            _behind(start, end),
            scale,
        )
        write_places(of_query, first, end, head, times(sums, scale))

    _in_segment(bounds, body)


def _key_kernel(
    bounds: Any,
    query: Any,
    key: Any,
    value: Any,
    gradient: Any,
    log_total: Any,
    share: Any,
    of_key: Any,
    of_value: Any,
    *,
    scale: float,
) -> None:
    def body(first: Any, start: Any, end: Any, head: Any) -> None:
        def read(number: Any) -> Any:
            at = start + number * SIZE
            places = (read_places(x, at, SIZE, end, head) for x in (query, gradient))
            numbers = (read_numbers(x, at, SIZE, end, head) for x in (log_total, share))
            return *places, *numbers

        keys, values = (read_places(x, first, SIZE, end, head) for x in (key, value))
        width = query.shape[-1]
        of_keys, of_values = key_gradients(
            _blocks(start, end),
            (zeros(SIZE, width), zeros(SIZE, width)),
            keys,
            values,
            read,
            _behind(start, end),
            scale,
        )
        write_places(of_key, first, end, head, times(of_keys, scale))
        write_places(of_value, first, end, head, of_values)

    _in_segment(bounds, body)
