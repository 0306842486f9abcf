"""The ways to attend within the segments of a stream, best first."""

from __future__ import annotations

from dataclasses import dataclass, field

import jax

from stts_jax.layers.attention.backends import xla_attention
from stts_jax.layers.attention.choice import Backend, kernel_refusal
from stts_jax.layers.attention.cudnn import cudnn_frames
from stts_jax.layers.attention.gpu import (
    gpu_refusal,
    leads_refusal,
    mixed_refusal,
    type_refusal,
)
from stts_jax.layers.attention.request import Request
from stts_jax.layers.attention.stream_blocks import neighbour_attention
from stts_jax.layers.attention.stream_frames import frames_attention
from stts_jax.layers.attention.stream_kernel import stream_kernel, stream_refusal
from stts_jax.layers.attention.stream_segments import segment_attention
from stts_jax.layers.attention.stream_triton import stream_triton

# Streams of at most this many neighbourhoods are cheaper as one dense product,
DENSE_STREAM_SEGMENTS = 6
# but on a CPU only those of segments shorter than this: a step of a loop costs as much as so many.
SHORT_SEGMENT = 128


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StreamRequest:
    """The arguments of `stream_attention`, which says what they mean."""

    query: jax.Array
    key: jax.Array
    value: jax.Array
    segment_ids: jax.Array
    longest: int = field(metadata={"static": True})
    segments: int = field(metadata={"static": True})


def _kernel_refusal(request: StreamRequest) -> str | None:
    heads, width = request.query.shape[2:]
    return kernel_refusal("tpu") or stream_refusal(
        heads, width, request.longest, request.query.dtype.itemsize
    )


def _kernel(request: StreamRequest) -> jax.Array:
    arrays = (request.query, request.key, request.value, request.segment_ids)
    return stream_kernel(*arrays, longest=request.longest, segments=request.segments)


def _cudnn_refusal(request: StreamRequest) -> str | None:
    leads = leads_refusal(request.query.shape[0] * request.segments)
    return gpu_refusal() or leads or type_refusal(request.query, columns=0)


def _triton_refusal(request: StreamRequest) -> str | None:
    mixed = mixed_refusal(request.query, request.key, request.value)
    return _cudnn_refusal(request) or mixed


def _triton(request: StreamRequest) -> jax.Array:
    arrays = (request.query, request.key, request.value, request.segment_ids)
    return stream_triton(*arrays, longest=request.longest, segments=request.segments)


def _cudnn(request: StreamRequest) -> jax.Array:
    return frames_attention(
        request.query,
        request.key,
        request.value,
        request.segment_ids,
        segments=request.segments,
        places=request.longest,
        attend=cudnn_frames,
    )


def _segments_refusal(request: StreamRequest) -> str | None:
    platform = jax.default_backend()
    if platform != "cpu":
        return f"one segment after the other is for a CPU, and this is a {platform}"
    if request.longest < SHORT_SEGMENT:
        return f"segments of {request.longest} at most are too short for a loop over them"
    return None


def _dense_refusal(request: StreamRequest) -> str | None:
    length, limit = request.query.shape[1], DENSE_STREAM_SEGMENTS * request.longest
    return None if length <= limit else f"of {length} places; up to {limit} are one product"


def _dense(request: StreamRequest) -> jax.Array:
    arrays = (request.query, request.key, request.value)
    return xla_attention(Request(*arrays, segment_ids=request.segment_ids))


def _segments(request: StreamRequest) -> jax.Array:
    arrays = (request.query, request.key, request.value, request.segment_ids)
    return segment_attention(*arrays, request.longest)


def _neighbours(request: StreamRequest) -> jax.Array:
    arrays = (request.query, request.key, request.value, request.segment_ids)
    return neighbour_attention(*arrays, request.longest)


STREAM_BACKENDS = (
    Backend("stream_kernel", _kernel_refusal, _kernel),
    Backend("stream_triton", _triton_refusal, _triton),
    # Whoever has a GPU may ask for it by name and see which is faster.
    Backend("cudnn", _cudnn_refusal, _cudnn),
    Backend("segments", _segments_refusal, _segments),
    Backend("dense", _dense_refusal, _dense),
    Backend("neighbours", lambda request: None, _neighbours),
)
