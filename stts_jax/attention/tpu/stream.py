"""Attention within the segments of a stream, for TPUs, without moving the segments in HBM.

Queries, keys, values and the output keep the layout of the projections, heads side by side. Each
segment is fetched into VMEM whole while the one before it is computed; its blocks of scores are
those of its own queries and keys alone. `stream_windows` moves segments, `stream_segment` computes
one, `stream_program` does both for part of a stream.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from stts_jax.attention.masks import segment_starts
from stts_jax.attention.requests import AttentionRequest, StreamRequest
from stts_jax.attention.softmax import attention_vjp
from stts_jax.attention.tpu.stream_program import backward_program, forward_program
from stts_jax.attention.tpu.stream_segment import LANES, QUERIES
from stts_jax.attention.tpu.stream_windows import (
    CHUNK,
    LEAD,
    SLOTS,
    TILE,
    part_plan,
    window_rows,
)

Interpret = bool | pltpu.InterpretParams
# VMEM that a program may take: a core of a v5p has 64 MiB, one of a v5e or v6e 128.
VMEM_BYTES = 48 * 2**20
# Of these, what the compiler needs for spilled registers.
SPARE_BYTES = 4 * 2**20
SMALL_CHIPS = ("TPU v2", "TPU v3", "TPU v4", "TPU v4 lite")
# With fewer segments the one that two parts share costs more than a second core is worth.
SEGMENTS_OF_PARTS = 16


def unsupported_stream(request: StreamRequest) -> str | None:
    """Returns why the kernel cannot compute a stream on this TPU, or None."""
    heads, width = request.query.shape[2:]
    return unsupported_windows(heads, width, request.longest, request.query.dtype.itemsize)


def unsupported_frames(request: AttentionRequest) -> str | None:
    """Returns why the kernel cannot compute a request for `attention` on this TPU, or None."""
    queries, keys = request.lengths
    if request.mask is not None or request.segment_ids is not None or request.mask_kind != "full":
        return "it is for full attention"
    kinds = {(x.shape, x.dtype) for x in (request.query, request.key, request.value)}
    if len(kinds) > 1:
        return f"{queries} queries and {keys} keys, or of other shapes; it is for arrays alike"
    if queries < CHUNK:
        return f"{queries} tokens are fewer than its blocks of {CHUNK}"
    heads, width = request.query.shape[-2:]
    biased = request.key_bias is not None
    return unsupported_windows(heads, width, queries, request.query.dtype.itemsize, biased=biased)


def unsupported_windows(
    heads: int, width: int, longest: int, itemsize: int, *, biased: bool = False
) -> str | None:
    """Returns why segments of so many heads and tokens do not fit into VMEM, or None."""
    if (kind := jax.devices()[0].device_kind) in SMALL_CHIPS:
        return f"a {kind} has too little VMEM for whole segments"
    rows, lanes = window_rows(longest), -(-heads * width // LANES) * LANES
    # As in `_backward`: windows, results and carries, sums; then lse and delta of each head.
    needed = lanes * itemsize * (5 * SLOTS * (LEAD + rows) + 3 * (SLOTS * rows + TILE))
    needed += lanes * 4 * 2 * rows + -(-heads // 8) * 8 * rows * 4 * (SLOTS + 1)
    if biased:
        needed += QUERIES * 4 * (SLOTS * (LEAD + rows) + SLOTS * rows + TILE + rows)
    if needed <= VMEM_BYTES - SPARE_BYTES:
        return None
    taken, there = needed // 2**20, (VMEM_BYTES - SPARE_BYTES) // 2**20
    return (
        f"segments of {longest} tokens of {lanes} lanes take {taken} MiB of VMEM, {there} are there"
    )


def stream_attention(request: StreamRequest, *, interpret: Interpret = False) -> jax.Array:
    """Computes `stream_attention`.

    Args:
      request: for which `unsupported_stream` is None.
      interpret: run the kernel's Python on any device, slowly; how, if it is not `True`.
    """
    starts = segment_starts(request.segment_ids, request.segments)
    return _in_place(*request.qkv, None, starts, request.longest, interpret)


def frame_attention(request: AttentionRequest, *, interpret: Interpret = False) -> jax.Array:
    """Computes `attention` of (B, ..., N, H, d): a stream of which each frame is a segment.

    Args:
      request: for which `unsupported_frames` is None.
      interpret: see `stream_attention`.
    """
    rows, *batch_dims, length, heads, width = request.query.shape
    frames = math.prod(batch_dims)
    starts = jnp.broadcast_to(jnp.arange(frames + 1, dtype=jnp.int32) * length, (rows, frames + 1))
    q, k, v = (
        x.reshape(rows, -1, heads, width) for x in (request.query, request.key, request.value)
    )
    bias = request.key_bias
    if bias is not None:
        bias = jnp.broadcast_to(bias, (rows, *batch_dims, length)).reshape(rows, -1)
    out = _in_place(q, k, v, bias, starts, length, interpret)
    return out.reshape(rows, *batch_dims, length, heads, width)


def _in_place(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    bias: jax.Array | None,
    starts: jax.Array,
    longest: int,
    interpret: Interpret,
) -> jax.Array:
    """Computes attention of (B, S, H, d) arrays with a (B, S) bias of keys."""
    shape, length = q.shape, q.shape[1]
    rows = max(-(-length // TILE) * TILE, CHUNK)

    def side_by_side(x: jax.Array) -> jax.Array:
        x = x.reshape(*x.shape[:2], -1)
        return x if rows == length else jnp.pad(x, ((0, 0), (0, rows - length), (0, 0)))

    if bias is not None:
        # As a block of scores has it: keys are sublanes, and a key's bias is that of all queries.
        bias = jnp.broadcast_to(bias.astype(jnp.float32)[..., None], (*bias.shape, QUERIES))
        bias = side_by_side(bias)
    static = shape[2], window_rows(longest), interpret
    out = _attend(side_by_side(q), side_by_side(k), side_by_side(v), bias, starts, static)
    return out[:, :length].reshape(shape)


# H, rows of a window, and how to interpret.
_Static = tuple[int, int, Interpret]


def _forward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    bias: jax.Array | None,
    starts: jax.Array,
    static: _Static,
) -> tuple[jax.Array, tuple[jax.Array | None, ...]]:
    """Computes attention of (B, S, H * d) arrays, a (B, S, QUERIES) bias and (B, T + 1) starts."""
    heads, rows, interpret = static
    batch, segments = starts.shape[0], starts.shape[1] - 1
    inputs = tuple(x for x in (q, k, v, bias) if x is not None)
    ((o,), lse) = _call(
        partial(forward_program, heads=heads),
        "stream_attention",
        starts,
        (inputs,),
        (
            (jax.ShapeDtypeStruct(q.shape, v.dtype),),
            jax.ShapeDtypeStruct((batch, segments, heads, rows), jnp.float32),
        ),
        {
            "windows": _buffers(inputs, LEAD + rows),
            "results": _buffers((v,), rows),
            "carries": _tiles((v,)),
            "lse": pltpu.VMEM((SLOTS, heads, rows), jnp.float32),
        },
        interpret,
    )
    return o, (q, k, v, bias, starts, o, lse)


def _backward(
    static: _Static, residuals: tuple[Any, ...], do: jax.Array
) -> tuple[jax.Array | None, ...]:
    q, k, v, bias, starts, o, lse = residuals
    heads, rows, interpret = static
    inputs = tuple(x for x in (q, k, v, bias) if x is not None)
    streams = (q, k, v, o, do.astype(v.dtype), *inputs[3:])
    (gradients,) = _call(
        partial(backward_program, heads=heads),
        "stream_attention_backward",
        starts,
        (streams, lse),
        (tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in inputs),),
        {
            "windows": _buffers(streams, LEAD + rows),
            "results": _buffers(inputs, rows),
            "carries": _tiles(inputs),
            "lse": pltpu.VMEM((SLOTS, heads, rows), jnp.float32),
            "delta": pltpu.VMEM((heads, rows), jnp.float32),
            "sums": [pltpu.VMEM((rows, x.shape[-1]), jnp.float32) for x in inputs[1:]],
        },
        interpret,
    )
    return *gradients[:3], (None if bias is None else gradients[3]), None


_attend = attention_vjp(_forward, _backward, (5,))


def _buffers(arrays: Sequence[jax.Array], rows: int) -> list[Any]:
    return [pltpu.VMEM((SLOTS, rows, x.shape[-1]), x.dtype) for x in arrays]


def _tiles(arrays: Sequence[jax.Array]) -> list[Any]:
    return [pltpu.VMEM((TILE, x.shape[-1]), x.dtype) for x in arrays]


def _call(
    body: Any,
    name: str,
    starts: jax.Array,
    arrays: Any,
    outs: Any,
    scratch: dict[str, Any],
    interpret: Interpret,
) -> Any:
    """Runs a program for each row and part; all arrays stay in HBM."""
    batch, length, _ = arrays[0][0].shape
    parts = 2 if starts.shape[1] > SEGMENTS_OF_PARTS else 1
    anywhere = pl.BlockSpec(memory_space=pl.ANY)
    semaphores = {
        "fetches": pltpu.SemaphoreType.DMA((len(scratch["windows"]), SLOTS)),
        "writes": pltpu.SemaphoreType.DMA((len(scratch["results"]), SLOTS)),
        "lse_copies": pltpu.SemaphoreType.DMA((SLOTS,)),
    }
    return pl.pallas_call(
        body,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(batch, parts),
            in_specs=jax.tree.map(lambda _: anywhere, arrays),
            out_specs=jax.tree.map(lambda _: anywhere, outs),
            scratch_shapes=(scratch | semaphores,),
        ),
        out_shape=outs,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel"), vmem_limit_bytes=VMEM_BYTES
        ),
        interpret=interpret,
        name=name,
    )(starts, part_plan(starts, length, parts), *arrays)
