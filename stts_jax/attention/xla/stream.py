"""Attention within the segments of a stream in plain XLA.

- `segment_attention`, on CPUs: one segment after the other. A segment's length is known only at run
  time, so its scores are computed in the smallest of a few static sizes that it fits into: products
  are large and dense, no other segment is visited, and the softmax passes over its scores once.
- `neighbour_attention`, elsewhere: static blocks as long as the longest segment, each with its two
  neighbours.
- `dense_attention`, for short streams: all of the stream under a segment mask.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from stts_jax.attention.masks import MASK_VALUE, segment_mask
from stts_jax.attention.requests import AttentionRequest, StreamRequest
from stts_jax.attention.softmax import attention_vjp
from stts_jax.attention.xla.block import block_backward, block_forward
from stts_jax.attention.xla.blockwise import blockwise_attention, xla_attention

# Streams of at most this many longest segments are cheaper as one dense product,
DENSE_STREAM_SEGMENTS = 6
# but on a CPU only those of segments shorter than this: a step of a loop costs as much as so many.
SHORT_SEGMENT = 128
# Static sizes of a segment. More of them compute fewer needless scores and compile longer.
SIZE_BUCKETS = 16


def unsupported_dense(request: StreamRequest) -> str | None:
    """Returns why the stream is too long to be one product, or None."""
    length, limit = request.query.shape[1], DENSE_STREAM_SEGMENTS * request.longest
    return None if length <= limit else f"of {length} tokens; up to {limit} are one product"


def dense_attention(request: StreamRequest) -> jax.Array:
    """Computes `stream_attention` as attention under a segment mask."""
    return xla_attention(AttentionRequest(*request.qkv, segment_ids=request.segment_ids))


def neighbour_attention(request: StreamRequest) -> jax.Array:
    """Computes `stream_attention` in blocks of as many tokens as the longest segment can have.

    The keys of a block's queries are in the block itself and its two neighbours. All rows are
    computed together, as they may be on several devices; only one block's scores of each exist at
    a time.
    """
    (query, key, value), segment_ids = request.qkv, request.segment_ids
    rows, length, heads, width = query.shape
    block = request.longest
    blocks = -(-length // block)
    after = blocks * block - length

    def padded(x: jax.Array, before: int, after: int, fill: int = 0) -> jax.Array:
        widths = [(0, 0), (before, after)] + [(0, 0)] * (x.ndim - 2)
        return jnp.pad(x, widths, constant_values=fill)

    queries = padded(query, 0, after)
    query_ids = padded(segment_ids, 0, after, -1)
    keys, values = padded(key, block, after + block), padded(value, block, after + block)
    key_ids = padded(segment_ids, block, after + block, -1)

    def attend(index: jax.Array) -> jax.Array:
        start = index * block

        def window(x: jax.Array, size: int) -> jax.Array:
            return jax.lax.dynamic_slice_in_dim(x, start, size, axis=1)

        mask = segment_mask(window(query_ids, block), window(key_ids, 3 * block))
        return blockwise_attention(
            window(queries, block), window(keys, 3 * block), window(values, 3 * block), mask=mask
        )

    # Recomputed in the backward pass, so that no window is kept.
    out = jax.lax.map(jax.checkpoint(attend), jnp.arange(blocks))
    out = jnp.moveaxis(out, 0, 1).reshape(rows, blocks * block, heads, width)
    return out[:, :length]


def unsupported_segments(request: StreamRequest) -> str | None:
    """Returns why the stream should not be computed segment by segment, or None."""
    platform = jax.default_backend()
    if platform != "cpu":
        return f"one segment after the other is for a CPU, and this is a {platform}"
    if request.longest < SHORT_SEGMENT:
        return f"segments of {request.longest} at most are too short for a loop over them"
    return None


def segment_sizes(longest: int) -> tuple[int, ...]:
    """Returns the static sizes of segments, evenly spaced up to the longest segment."""
    return tuple(sorted({-(-longest * (n + 1) // SIZE_BUCKETS) for n in range(SIZE_BUCKETS)}))


def segment_attention(request: StreamRequest) -> jax.Array:
    """Computes `stream_attention` one segment after the other."""
    segment_ids = request.segment_ids
    # Room for the longest segment behind the last one, which is read in a larger static size.
    room = ((0, 0), (0, 0), (0, request.longest), (0, 0))
    q, k, v = (jnp.pad(jnp.moveaxis(x, 1, 2), room) for x in request.qkv)
    out = _attend(q, k, v, segment_ends(segment_ids), segment_sizes(request.longest))
    return jnp.moveaxis(out[:, :, : segment_ids.shape[1]], 2, 1)


def segment_ends(segment_ids: jax.Array) -> jax.Array:
    """Returns the end of each token's segment, 0 at padding: (B, S) ids -> (B, S) int32."""
    length = segment_ids.shape[1]
    last = segment_ids[:, 1:] != segment_ids[:, :-1]
    last = jnp.pad(last, ((0, 0), (0, 1)), constant_values=True)
    ends = jnp.where(last, jnp.arange(1, length + 1), length)
    ends = jax.lax.cummin(ends, axis=1, reverse=True)
    return jnp.where(segment_ids >= 0, ends, 0).astype(jnp.int32)


def _attend_forward(
    q: jax.Array, k: jax.Array, v: jax.Array, ends: jax.Array, sizes: tuple[int, ...]
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Computes attention of (B, H, S, d), S with room behind the last segment."""

    def attend(arrays: Any, bias: jax.Array) -> Any:
        q, k, v = arrays
        o, lse = block_forward(q, k, v, bias, None)
        return o, lse[:, None]

    like = (v, jnp.zeros((*q.shape[:3], 1), jnp.float32))
    o, lse = _each_segment(attend, (q, k, v), like, ends, sizes)
    return o, (q, k, v, ends, o, lse)


def _attend_backward(
    sizes: tuple[int, ...], residuals: tuple[jax.Array, ...], do: jax.Array
) -> tuple[jax.Array | None, ...]:
    *inputs, ends, o, lse = residuals

    def attend(arrays: Any, bias: jax.Array) -> Any:
        q, k, v, o, lse, do = arrays
        # Behind the end are queries of the next segment: with such an lse they weigh no key here.
        lse = lse[:, 0] - bias[0]
        *gradients, _ = block_backward(q, k, v, bias, None, o, lse, do)
        return tuple(g.astype(x.dtype) for g, x in zip(gradients, arrays, strict=False))

    return *_each_segment(attend, (*inputs, o, lse, do), inputs, ends, sizes), None


_attend = attention_vjp(_attend_forward, _attend_backward, (4,))


def _each_segment(
    function: Callable[[Any, jax.Array], Any],
    arrays: Any,
    like: Any,
    ends: jax.Array,
    sizes: tuple[int, ...],
) -> Any:
    """Applies a function to every segment of every row and head.

    Args:
      function: from arrays (n, ...) of one segment and a bias (1, n) that hides the keys behind its
        end to arrays (n, ...).
      arrays: (B, H, S, ...) each.
      like: arrays of the shapes and types of the results; tokens outside segments become 0.
      ends: (B, S), see `segment_ends`.
      sizes: static sizes n.
    """
    rows, heads = ends.shape[0], like[0].shape[1]

    def of_head(number_and_arrays: tuple[jax.Array, Any]) -> Any:
        number, arrays = number_and_arrays
        row_ends = ends[number // heads]
        stop = row_ends.max()

        def of_size(size: int, start: jax.Array, count: jax.Array) -> Any:
            segment = tuple(jax.lax.dynamic_slice_in_dim(x, start, size) for x in arrays)
            inside = jnp.arange(size) < count
            results = function(segment, jnp.where(inside, 0.0, MASK_VALUE)[None, :])
            # The results behind the end are overwritten by the next segment, or stay 0.
            room = ((0, sizes[-1] - size), (0, 0))
            return tuple(jnp.pad(jnp.where(inside[:, None], x, 0), room) for x in results)

        def step(carry: tuple[jax.Array, Any]) -> tuple[jax.Array, Any]:
            start, done = carry
            count = row_ends[start] - start
            bucket = jnp.searchsorted(jnp.array(sizes), count, method="compare_all")
            branches = [partial(of_size, size) for size in sizes]
            results = jax.lax.switch(bucket, branches, start, count)
            done = tuple(
                jax.lax.dynamic_update_slice_in_dim(whole, part, start, 0)
                for whole, part in zip(done, results, strict=True)
            )
            # Padding that is not at the end is skipped token by token.
            return start + jnp.maximum(count, 1), done

        empty = tuple(jnp.zeros(x.shape[2:], x.dtype) for x in like)
        first = (jnp.zeros((), row_ends.dtype), empty)
        return jax.lax.while_loop(lambda carry: carry[0] < stop, step, first)[1]

    flat = tuple(x.reshape(rows * heads, *x.shape[2:]) for x in arrays)
    results = jax.lax.map(of_head, (jnp.arange(rows * heads), flat))
    return tuple(x.reshape(rows, heads, *x.shape[1:]) for x in results)
