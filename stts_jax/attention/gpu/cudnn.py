"""cuDNN's fused attention, for GPUs, by way of JAX."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from stts_jax.attention.gpu.limits import unsupported_heads, unsupported_rows
from stts_jax.attention.masks import segment_starts
from stts_jax.attention.requests import AttentionRequest, StreamRequest
from stts_jax.attention.softmax import with_bias_columns

# Widths of heads are padded to a multiple of this.
WIDTH_STEP = 8
# Lengths are padded to a multiple of this, without which there is no gradient.
LENGTH_STEP = 2


def unsupported(request: AttentionRequest) -> str | None:
    """Returns why cuDNN cannot compute a request on any GPU, or None."""
    if request.mask is not None or request.segment_ids is not None:
        return "it would make a mask or segments an array as large as the scores"
    if request.lengths[0] == 1:
        return "for one query a single product is faster"
    rows = unsupported_rows(math.prod(request.query.shape[:-3]))
    return rows or unsupported_heads(request.query, 0 if request.key_bias is None else 2)


def cudnn_attention(request: AttentionRequest) -> jax.Array:
    """Computes `attention`, for a request for which `unsupported` is None."""
    query, key = with_bias_columns(request.query, request.key, request.key_bias)
    batch, (queries, keys) = math.prod(query.shape[:-3]), request.lengths
    lengths: dict[str, jax.Array] = {}
    if queries % LENGTH_STEP or keys % LENGTH_STEP:
        lengths = {
            "query_seq_lengths": jnp.full(batch, queries, jnp.int32),
            "key_value_seq_lengths": jnp.full(batch, keys, jnp.int32),
        }
    causal = request.mask_kind == "causal"
    out = _fused(query, key, request.value, is_causal=causal, **lengths)
    return out.reshape(request.query.shape)


def unsupported_stream(request: StreamRequest) -> str | None:
    """Returns why cuDNN cannot compute a stream on any GPU, or None."""
    rows = unsupported_rows(request.query.shape[0] * request.segments)
    return rows or unsupported_heads(request.query)


def cudnn_stream_attention(request: StreamRequest) -> jax.Array:
    """Computes `stream_attention` with each segment moved into a frame of the longest's length.

    cuDNN knows the length of each frame and visits nothing behind it, so the only price is to move
    each token there and back.
    """
    segments, length = request.segments, request.longest
    rows = request.segment_ids.shape[0]
    source, target, counts = frame_layout(request.segment_ids, segments, length)

    def frames(x: jax.Array) -> jax.Array:
        return _move(x, source, target).reshape(rows * segments, length, *x.shape[2:])

    q, k, v = map(frames, request.qkv)
    out = frame_attention(q, k, v, counts.reshape(-1))
    return _move(out.reshape(rows, segments * length, *out.shape[2:]), target, source)


def frame_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, lengths: jax.Array
) -> jax.Array:
    """Computes attention among the first `lengths` (F,) tokens of frames (F, N, H, d)."""
    query, key = with_bias_columns(query, key, None)
    return _fused(query, key, value, query_seq_lengths=lengths, key_value_seq_lengths=lengths)


def frame_layout(
    segment_ids: jax.Array, segments: int, length: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Computes the indices that move a stream's tokens into frames and back.

    Args:
      segment_ids: (B, S), see `stream_attention`.
      segments: T, ids are below this.
      length: N, of a frame; at least that of the longest segment.

    Returns:
      source (B, T * N) int32, index into the stream, S at empty slots of frames.
      target (B, S) int32, index into the frames, T * N for padding.
      counts (B, T) int32, tokens of each segment.
    """
    rows, stream = segment_ids.shape
    ids = jnp.where(segment_ids >= 0, segment_ids, segments)
    starts = segment_starts(segment_ids, segments)
    counts = starts[:, 1:] - starts[:, :-1]
    rank = jnp.arange(length)
    source = starts[:, :-1, None] + rank
    source = jnp.where(rank < counts[..., None], source, stream).reshape(rows, -1)
    own_start = jnp.take_along_axis(starts, ids, axis=1)
    target = ids * length + jnp.arange(stream) - own_start
    target = jnp.where(segment_ids >= 0, target, segments * length)
    return source.astype(jnp.int32), target.astype(jnp.int32), counts


def _fused(query: jax.Array, key: jax.Array, value: jax.Array, **options: Any) -> jax.Array:
    """Returns (batch, Lq, H, d of `value`), for queries that are scaled already."""
    width = -(-query.shape[-1] // WIDTH_STEP) * WIDTH_STEP

    def padded(x: jax.Array) -> jax.Array:
        x = x.reshape(math.prod(x.shape[:-3]), *x.shape[-3:])
        _, length, _, own_width = x.shape
        return jnp.pad(x, ((0, 0), (0, -length % LENGTH_STEP), (0, 0), (0, width - own_width)))

    out: jax.Array = jax.nn.dot_product_attention(
        padded(query), padded(key), padded(value), scale=1.0, implementation="cudnn", **options
    )
    return out[:, : query.shape[-3], :, : value.shape[-1]]


@jax.custom_vjp
def _move(x: jax.Array, source: jax.Array, target: jax.Array) -> jax.Array:
    """Returns `x[b, source[b]]`, 0 where out of range.

    `target` are the indices of the way back, so that the gradient is a gather too, no scatter.
    """

    def gather(row: jax.Array, index: jax.Array) -> jax.Array:
        return row.at[index].get(mode="fill", fill_value=0)

    return jax.vmap(gather)(x, source)


def _move_forward(x: jax.Array, source: jax.Array, target: jax.Array) -> tuple[jax.Array, object]:
    return _move(x, source, target), (source, target)


def _move_backward(
    residuals: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[object, ...]:
    source, target = residuals
    return _move(gradient, target, source), None, None


_move.defvjp(_move_forward, _move_backward)
