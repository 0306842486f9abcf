"""Attention within the segments of a stream, for GPUs: a Pallas kernel by way of Triton.

A program has a block of a segment's queries and a head, and loops over the blocks of keys of that
segment, where they are: a GPU reads from any row on, so nothing is moved into frames of a common
length, and blocks begin where segments do. The backward pass is two kernels, one for queries and
one for keys, which recompute the scores.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from stts_jax.attention.gpu import cudnn
from stts_jax.attention.gpu.kernels import Block, Visited, dkv_block, dq_block, forward_block
from stts_jax.attention.gpu.limits import unsupported_types
from stts_jax.attention.gpu.tiles import SIZE
from stts_jax.attention.masks import MASK_VALUE, segment_starts
from stts_jax.attention.requests import StreamRequest
from stts_jax.attention.softmax import attention_vjp, softmax_delta


def unsupported(request: StreamRequest) -> str | None:
    """Returns why the kernel cannot compute a stream on any GPU, or None."""
    types = unsupported_types(request.query, request.key, request.value)
    return cudnn.unsupported_stream(request) or types


def stream_attention(request: StreamRequest, *, interpret: bool = False) -> jax.Array:
    """Computes `stream_attention`.

    Args:
      request: for which `unsupported` is None. What a segment that is longer than the longest has
        behind that length, and its gradients, are meaningless, and at times NaN.
      interpret: run the kernel's Python on any device, slowly.
    """
    segment_ids = request.segment_ids
    rows, length = segment_ids.shape
    starts = segment_starts(segment_ids, request.segments)
    starts = starts + length * jnp.arange(rows, dtype=jnp.int32)[:, None]
    bounds = jnp.stack([starts[:, :-1], starts[:, 1:]]).reshape(2, -1)
    q, k, v = (x.reshape(-1, *x.shape[2:]) for x in request.qkv)
    out = _attend(q, k, v, segment_ids.reshape(-1) >= 0, bounds, request.longest, interpret)
    return out.reshape(request.query.shape)


def _forward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    is_token: jax.Array,
    bounds: jax.Array,
    longest: int,
    interpret: bool,
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Computes attention of (R, H, d) rows, of which some are tokens, (R,) bool.

    `bounds` are (2, segments) int32: the first row of each segment, and the one behind its last.
    """
    rows, heads, _ = q.shape
    lse_like = jax.ShapeDtypeStruct((heads, rows), jnp.float32)
    o, lse = _call(forward_kernel, [v, lse_like], longest, interpret, bounds, q, k, v)
    o = _tokens_only(o, is_token)
    return o, (q, k, v, is_token, bounds, o, lse)


def _backward(
    longest: int, interpret: bool, residuals: tuple[jax.Array, ...], do: jax.Array
) -> tuple[jax.Array | None, ...]:
    q, k, v, is_token, bounds, o, lse = residuals
    inputs = (bounds, q, k, v, do.astype(v.dtype), lse, softmax_delta(o, do).T)
    (dq,) = _call(dq_kernel, [q], longest, interpret, *inputs)
    dk, dv = _call(dkv_kernel, [k, v], longest, interpret, *inputs)
    return *(_tokens_only(x, is_token) for x in (dq, dk, dv)), None, None


_attend = attention_vjp(_forward, _backward, (5, 6))


def _tokens_only(x: jax.Array, is_token: jax.Array) -> jax.Array:
    """Returns x with 0 at padding, where no program writes."""
    return jnp.where(is_token[:, None, None], x, 0)


def _call(
    kernel: Callable[..., None],
    outputs: list[Any],
    longest: int,
    interpret: bool,
    bounds: jax.Array,
    q: jax.Array,
    *arrays: jax.Array,
) -> Any:
    """Runs a kernel over all blocks, segments and heads; outputs are like these arrays."""
    _, heads, width = q.shape
    run = pl.pallas_call(
        partial(kernel, scale=width**-0.5),
        grid=(pl.cdiv(longest, SIZE), bounds.shape[1], heads),
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in outputs],
        compiler_params=plgpu.CompilerParams(num_warps=4, num_stages=2),
        interpret=interpret,
        name=f"stream_{kernel.__name__}",
    )
    return run(bounds, q, *arrays)


# Each kernel's first argument is `bounds`, the others are as in `kernels.py`.
# Grid: (blocks of the longest segment, segments, heads).


def forward_kernel(bounds: Any, *refs: Any, scale: float) -> None:
    """Computes o and lse of a block of a segment's queries: q, k, v -> o, lse."""
    head = pl.program_id(2)
    _in_segment(bounds, lambda block, keys: forward_block(refs, block, keys, head, head, scale))


def dq_kernel(bounds: Any, *refs: Any, scale: float) -> None:
    """Computes dq of a block of a segment's queries: q, k, v, do, lse, delta -> dq."""
    head = pl.program_id(2)
    _in_segment(bounds, lambda block, keys: dq_block(refs, block, keys, head, head, scale))


def dkv_kernel(bounds: Any, *refs: Any, scale: float) -> None:
    """Computes dk and dv of a block of a segment's keys: q, k, v, do, lse, delta -> dk, dv."""
    head = pl.program_id(2)
    _in_segment(bounds, lambda block, queries: dkv_block(refs, block, queries, head, 1, scale))


def _in_segment(bounds: Any, run: Callable[[Block, Visited], None]) -> None:
    """Runs something with this program's block and the blocks of its segment.

    Not where the segment is shorter than the longest one and ends before the block.
    """
    segment = pl.program_id(1)
    start, end = bounds[0, segment], bounds[1, segment]
    first = start + pl.program_id(0) * SIZE

    def mask(number: Any, s: jax.Array) -> jax.Array:
        row = start + number * SIZE + jax.lax.broadcasted_iota(jnp.int32, s.shape, 1)
        return jnp.where(row < end, s, MASK_VALUE)

    @pl.when(first < end)
    def _() -> None:
        span = (0, pl.cdiv(end - start, SIZE))
        visited = Visited(lambda number: start + number * SIZE, end, ((span, mask),))
        run(Block(first, end), visited)
