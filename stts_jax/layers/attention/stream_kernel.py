"""A Pallas kernel for TPUs: attention within the segments of a stream, where they lie.

Queries, keys and values stay as the projections make them, heads side by side, and so does what
comes out: nothing is laid out anew in memory. Each segment is fetched into VMEM whole, while the
one before it is computed; its blocks of scores are those of its own queries and keys alone.
`stream_windows` moves, `stream_kernel_blocks` cuts, `stream_kernel_bodies` computes, and
`stream_kernel_programs` does it all.
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

from stts_jax.layers.attention.request import Request
from stts_jax.layers.attention.stream_frames import segment_starts
from stts_jax.layers.attention.stream_kernel_blocks import LANES, QUERIES
from stts_jax.layers.attention.stream_kernel_programs import backward_program, forward_program
from stts_jax.layers.attention.stream_windows import (
    CHUNK,
    LEAD,
    SLOTS,
    TILE,
    part_plan,
    window_rows,
)

Interpret = bool | pltpu.InterpretParams
# What a program may take of VMEM: a core of a v5p has 64 MiB, one of a v5e or v6e 128.
VMEM_BYTES = 48 * 2**20
# Of these, what the compiler needs for what registers don't hold.
SPARE_BYTES = 4 * 2**20
SMALL_CHIPS = ("TPU v2", "TPU v3", "TPU v4", "TPU v4 lite")
# With fewer segments the one that two parts share costs more than a second core is worth.
SEGMENTS_OF_PARTS = 16


def stream_refusal(
    heads: int, width: int, longest: int, itemsize: int, *, biased: bool = False
) -> str | None:
    """Why windows of so many heads and rows are too large for the backward pass, or None."""
    if (kind := jax.devices()[0].device_kind) in SMALL_CHIPS:
        return f"a {kind} has too little VMEM for whole segments"
    rows, lanes = window_rows(longest), -(-heads * width // LANES) * LANES
    # As in `_backward`: windows, results and carries, sums; then one number a row of each head.
    needed = lanes * itemsize * (5 * SLOTS * (LEAD + rows) + 3 * (SLOTS * rows + TILE))
    needed += lanes * 4 * 2 * rows + -(-heads // 8) * 8 * rows * 4 * (SLOTS + 1)
    if biased:
        needed += QUERIES * 4 * (SLOTS * (LEAD + rows) + SLOTS * rows + TILE + rows)
    if needed <= VMEM_BYTES - SPARE_BYTES:
        return None
    taken, there = needed // 2**20, (VMEM_BYTES - SPARE_BYTES) // 2**20
    return (
        f"segments of {longest} places of {lanes} lanes take {taken} MiB of VMEM, {there} are there"
    )


def frames_refusal(request: Request) -> str | None:
    """Why `frames_kernel` cannot do what is asked, or None, on a TPU that is free to run it."""
    length, places = request.lengths
    if request.mask is not None or request.segment_ids is not None or request.mask_kind != "full":
        return "it is for full attention"
    kinds = {(x.shape, x.dtype) for x in (request.query, request.key, request.value)}
    if len(kinds) > 1:
        return f"{length} queries and {places} keys, or of other shapes; it is for arrays alike"
    if length < CHUNK:
        return f"{length} places are fewer than its blocks of {CHUNK}"
    heads, width = request.query.shape[-2:]
    biased = request.key_bias is not None
    return stream_refusal(heads, width, length, request.query.dtype.itemsize, biased=biased)


def stream_kernel(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment_ids: jax.Array,
    *,
    longest: int,
    segments: int,
    interpret: Interpret = False,
) -> jax.Array:
    """As `stream_attention`.

    Args:
      query, key, value, segment_ids, longest, segments: see there.
      interpret: run the kernel's Python on any device, slowly; how, if it isn't `True`.
    """
    starts = segment_starts(segment_ids, segments)
    return _in_place(query, key, value, None, starts, longest, interpret)


def frames_kernel(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    key_bias: jax.Array | None,
    *,
    interpret: Interpret = False,
) -> jax.Array:
    """Full attention within frames: a stream of which each segment is whole.

    Args:
      query, key, value: (B, ..., N, H, d).
      key_bias: (B, ..., N) float, added to the scores of a key for all heads, or None.
      interpret: see `stream_kernel`.

    Returns:
      (B, ..., N, H, d).
    """
    rows, *lead, places, heads, width = query.shape
    frames = math.prod(lead)
    starts = jnp.broadcast_to(jnp.arange(frames + 1, dtype=jnp.int32) * places, (rows, frames + 1))
    query, key, value = (x.reshape(rows, -1, heads, width) for x in (query, key, value))
    bias = key_bias
    if bias is not None:
        bias = jnp.broadcast_to(bias, (rows, *lead, places)).reshape(rows, -1)
    out = _in_place(query, key, value, bias, starts, places, interpret)
    return out.reshape(rows, *lead, places, heads, width)


def _in_place(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    bias: jax.Array | None,
    starts: jax.Array,
    longest: int,
    interpret: Interpret,
) -> jax.Array:
    """Of (B, S, H, d) arrays and a (B, S) bias; heads side by side, rows in whole tiles."""
    shape, length = query.shape, query.shape[1]
    rows = max(-(-length // TILE) * TILE, CHUNK)

    def lanes(x: jax.Array) -> jax.Array:
        x = x.reshape(*x.shape[:2], -1)
        return x if rows == length else jnp.pad(x, ((0, 0), (0, rows - length), (0, 0)))

    if bias is not None:
        # As a block of scores wants it: keys go down, and each is the same for all queries.
        bias = jnp.broadcast_to(bias.astype(jnp.float32)[..., None], (*bias.shape, QUERIES))
        bias = lanes(bias)
    static = shape[2], window_rows(longest), interpret
    out = _attend(lanes(query), lanes(key), lanes(value), bias, starts, static)
    return out[:, :length].reshape(shape)


_Static = tuple[int, int, Interpret]


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def _attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    bias: jax.Array | None,
    starts: jax.Array,
    static: _Static,
) -> jax.Array:
    """Of (B, S, H * d) arrays, a (B, S, QUERIES) bias and (B, T + 1) starts."""
    return _forward(query, key, value, bias, starts, static)[0]


def _forward(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    bias: jax.Array | None,
    starts: jax.Array,
    static: _Static,
) -> tuple[jax.Array, tuple[jax.Array | None, ...]]:
    heads, rows, interpret = static
    batch, segments = starts.shape[0], starts.shape[1] - 1
    arrays = tuple(x for x in (query, key, value, bias) if x is not None)
    ((out,), log_total) = _call(
        partial(forward_program, heads=heads),
        "stream_attention",
        starts,
        (arrays,),
        (
            (jax.ShapeDtypeStruct(query.shape, value.dtype),),
            jax.ShapeDtypeStruct((batch, segments, heads, rows), jnp.float32),
        ),
        {
            "windows": _buffers(arrays, LEAD + rows),
            "results": _buffers((value,), rows),
            "carries": _tiles((value,)),
            "logs": pltpu.VMEM((SLOTS, heads, rows), jnp.float32),
        },
        interpret,
    )
    return out, (query, key, value, bias, starts, out, log_total)


def _backward(
    static: _Static, kept: tuple[Any, ...], gradient: jax.Array
) -> tuple[jax.Array | None, ...]:
    query, key, value, bias, starts, out, log_total = kept
    heads, rows, interpret = static
    inputs = tuple(x for x in (query, key, value, bias) if x is not None)
    arrays = (query, key, value, out, gradient.astype(value.dtype), *inputs[3:])
    (gradients,) = _call(
        partial(backward_program, heads=heads),
        "stream_attention_backward",
        starts,
        (arrays, log_total),
        (tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in inputs),),
        {
            "windows": _buffers(arrays, LEAD + rows),
            "results": _buffers(inputs, rows),
            "carries": _tiles(inputs),
            "logs": pltpu.VMEM((SLOTS, heads, rows), jnp.float32),
            "share": pltpu.VMEM((heads, rows), jnp.float32),
            "sums": [pltpu.VMEM((rows, x.shape[-1]), jnp.float32) for x in inputs[1:]],
        },
        interpret,
    )
    return *gradients[:3], (None if bias is None else gradients[3]), None


_attend.defvjp(_forward, _backward)


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
    """A program for each row and part; everything stays in memory until it is asked for."""
    batch, length, _ = arrays[0][0].shape
    parts = 2 if starts.shape[1] > SEGMENTS_OF_PARTS else 1
    anywhere = pl.BlockSpec(memory_space=pl.ANY)
    copies = {
        "fetches": pltpu.SemaphoreType.DMA((len(scratch["windows"]), SLOTS)),
        "writes": pltpu.SemaphoreType.DMA((len(scratch["results"]), SLOTS)),
        "log_copies": pltpu.SemaphoreType.DMA((SLOTS,)),
    }
    return pl.pallas_call(
        body,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(batch, parts),
            in_specs=jax.tree.map(lambda _: anywhere, arrays),
            out_specs=jax.tree.map(lambda _: anywhere, outs),
            scratch_shapes=(scratch | copies,),
        ),
        out_shape=outs,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel"), vmem_limit_bytes=VMEM_BYTES
        ),
        interpret=interpret,
        name=name,
    )(starts, part_plan(starts, length, parts), *arrays)
