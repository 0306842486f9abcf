"""The XLA backend for any request: one block of scores at a time, with its own gradient.

Kept for the backward pass are only the inputs, the output and lse.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from stts_jax.attention.masks import IndexMask, Mask, as_array
from stts_jax.attention.requests import AttentionRequest
from stts_jax.attention.softmax import attention_vjp
from stts_jax.attention.xla.block import block_backward, block_forward, dense_attention

# Fewer scores than this are computed at once.
FEW_SCORES = 2**19
# Scores of one block. On CPUs they go through the cache several times: a cache holds a megabyte
# or two of them, and one frame of 729 patches and one head are best computed whole.
CPU_SCORES = 2**20
# Elsewhere a block has all rows and heads, to keep all units busy, and no fewer queries than this.
ACCELERATOR_SCORES = 2**28
ACCELERATOR_QUERIES = 256


def xla_attention(request: AttentionRequest) -> jax.Array:
    """Computes `attention` in plain XLA: at once if there are few scores, else block by block."""
    request = request.with_one_mask()
    query, key, mask = request.query, request.key, request.mask
    scores = query.size // query.shape[-1] * key.shape[-3]
    if scores <= FEW_SCORES or query.shape[-3] == 1:
        array = None if mask is None else as_array(mask)
        return dense_attention(query, key, request.value, mask=array, key_bias=request.key_bias)
    return blockwise_attention(query, key, request.value, mask=mask, key_bias=request.key_bias)


@dataclass(frozen=True)
class BlockPlan:
    """How the work is split into steps of blocks.

    Attributes:
      batch: entries of the flattened batch dims in a step.
      heads: key heads in a step; all, if `batch` is more than 1.
      blocks: blocks of queries in a step.
    """

    batch: int
    heads: int
    blocks: int


def block_plan(batch: int, heads: int, queries: int, scores: int, platform: str) -> BlockPlan:
    """Returns the plan for `batch` x `heads` products with `scores` scores of `queries` queries.

    On a CPU steps follow one another and each fits the cache. Elsewhere a step has all heads, and
    as many batch entries as blocks of no fewer queries than keep all units busy leave room for.
    """
    if platform != "cpu":
        blocks = -(-batch * heads * scores // ACCELERATOR_SCORES)
        blocks = min(blocks, -(-queries // ACCELERATOR_QUERIES))
        together = max(ACCELERATOR_SCORES * blocks // (heads * scores), 1)
        return BlockPlan(_largest_divisor(batch, together), heads, blocks)
    together = max(CPU_SCORES // scores, 1)
    if together >= heads:
        return BlockPlan(_largest_divisor(batch, together // heads), heads, 1)
    return BlockPlan(1, _largest_divisor(heads, together), -(-scores // CPU_SCORES))


def blockwise_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    mask: Mask | None = None,
    key_bias: jax.Array | None = None,
    plan: BlockPlan | None = None,
) -> jax.Array:
    """Computes `attention`, for any shapes.

    Args:
      query, key, value, mask, key_bias: see `attention`.
      plan: how the work is split; by default as suits the platform.
    """
    *batch_dims, length, _, width = query.shape
    batch, (key_length, heads) = math.prod(batch_dims), key.shape[-3:-1]
    groups = query.shape[-2] // heads
    if plan is None:
        scores = groups * length * key_length
        plan = block_plan(batch, heads, length, scores, jax.default_backend())
    size = -(-length // plan.blocks)
    padding = plan.blocks * size - length

    def steps(x: jax.Array) -> jax.Array:
        """(batch, heads, ...) -> (steps, batch of a step, heads of a step, ...)."""
        return x.reshape(-1, plan.batch, plan.heads, *x.shape[2:])

    # (batch, heads, blocks, groups, size, d): query heads of a key head are side by side.
    q = jnp.pad(
        query.reshape(batch, length, heads, groups, width), ((0, 0), (0, padding)) + ((0, 0),) * 3
    )
    q = q.reshape(batch, plan.blocks, size, heads, groups, width).transpose(0, 3, 1, 4, 2, 5)
    k, v = (jnp.moveaxis(x.reshape(batch, key_length, heads, width), 2, 1) for x in (key, value))
    if mask is not None:
        mask = _mask_steps(mask, tuple(batch_dims), plan, padding)
    if key_bias is not None:
        key_bias = _batch_steps(key_bias.astype(jnp.float32), tuple(batch_dims), 1, plan)
    o = _attend(steps(q), steps(k), steps(v), key_bias, mask)
    o = o.reshape(batch, heads, plan.blocks, groups, size, width).transpose(0, 2, 4, 1, 3, 5)
    o = o.reshape(batch, plan.blocks * size, heads * groups, width)[:, :length]
    return o.reshape(query.shape)


def _attend_forward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    bias: jax.Array | None,
    mask: Mask | None,
) -> tuple[jax.Array, tuple[Any, ...]]:
    """Computes step after step, block after block.

    Args:
      q: (steps, batch, heads, blocks, groups, m, d).
      k, v: (steps, batch, heads, n, d).
      bias: (batch steps, batch, n), where several steps in a row may be of the same batch entry.
      mask: (batch steps, batch, blocks * m or 1, n), or an `IndexMask` of (batch steps, batch, L).

    Returns:
      o, of the shape of q.
    """

    def step(number: jax.Array, arrays: tuple[jax.Array, ...]) -> Any:
        q, k, v = arrays
        bias_and_mask = _block_limits(number, q, bias, mask, k.shape[-2], steps=steps)

        def block(index: jax.Array, q: jax.Array) -> Any:
            return block_forward(_joined(q), k, v, *bias_and_mask(index))

        o, lse = _each(block, jnp.moveaxis(q, 2, 0))
        return jnp.moveaxis(o, 0, 2), jnp.moveaxis(lse, 0, 2)

    steps = q.shape[0]
    # The mask is made to depend on the queries: otherwise XLA would make it for all blocks and
    # heads before the loop over layers, and keep it for the backward pass.
    if mask is not None:
        q, mask = jax.lax.optimization_barrier((q, mask))
    o, lse = _each(step, (q, k, v))
    o = o.reshape(q.shape)
    return o, (q, k, v, bias, mask, o, lse)


def _attend_backward(residuals: tuple[Any, ...], do: jax.Array) -> tuple[Any, ...]:
    q, k, v, bias, mask, o, lse = residuals

    def step(number: jax.Array, arrays: tuple[jax.Array, ...]) -> Any:
        q, k, v, *rest = arrays
        bias_and_mask = _block_limits(number, q, bias, mask, k.shape[-2], steps=steps)

        def block(sums: Any, index_and_block: Any) -> Any:
            index, (q, o, lse, do) = index_and_block
            queries, o, do = (_joined(x) for x in (q, o, do))
            dq, dk, dv, dbias = block_backward(queries, k, v, *bias_and_mask(index), o, lse, do)
            return tuple(map(jnp.add, sums, (dk, dv, dbias.sum(1)))), dq.reshape(q.shape)

        zeros = jnp.zeros(k.shape, jnp.float32)
        sums = (zeros, zeros, zeros[:, 0, :, 0])
        parts = tuple(jnp.moveaxis(x, 2, 0) for x in (q, *rest))
        if q.shape[2] == 1:
            first = jax.tree.map(lambda x: x[0], parts)
            sums, dq = block(sums, (jnp.int32(0), first))
            dq = dq[None]
        else:
            sums, dq = jax.lax.scan(block, sums, (jnp.arange(q.shape[2]), parts))
        return jnp.moveaxis(dq, 0, 2), *sums

    steps = q.shape[0]
    dq, dk, dv, dbias = _each(step, (q, k, v, o, lse, do))
    if bias is not None:
        dbias = dbias.reshape(bias.shape[0], -1, *bias.shape[1:]).sum(1)
    return (
        dq.astype(q.dtype),
        dk.astype(k.dtype),
        dv.astype(v.dtype),
        None if bias is None else dbias,
        None,
    )


_attend = attention_vjp(_attend_forward, _attend_backward)


def _batch_steps(
    x: jax.Array, batch_dims: tuple[int, ...], inner: int, plan: BlockPlan
) -> jax.Array:
    """Returns (batch steps, batch of a step, *inner) of (..., *inner) with `inner` dimensions."""
    own = x.shape[x.ndim - inner :]
    return jnp.broadcast_to(x, (*batch_dims, *own)).reshape(-1, plan.batch, *own)


def _mask_steps(mask: Mask, batch_dims: tuple[int, ...], plan: BlockPlan, padding: int) -> Mask:
    """Returns the mask as `_attend` takes it, with `padding` more queries."""
    if isinstance(mask, IndexMask):
        steps = jax.tree.map(lambda x: _batch_steps(x, batch_dims, 1, plan), mask)
        room = ((0, 0), (0, 0), (0, padding))
        queries = jax.tree.map(lambda x: jnp.pad(x, room), steps.queries)
        return IndexMask(queries, steps.keys, mask.spec)
    array = _batch_steps(mask, batch_dims, 2, plan)
    more = padding if mask.shape[-2] > 1 else 0
    return jnp.pad(array, ((0, 0), (0, 0), (0, more), (0, 0)))


def _block_limits(
    number: jax.Array,
    q: jax.Array,
    bias: jax.Array | None,
    mask: Mask | None,
    keys: int,
    *,
    steps: int,
) -> Callable[[jax.Array], tuple[jax.Array | None, jax.Array | None]]:
    """Returns a function from the number of a step's block to its bias and mask.

    Both are broadcastable to (batch, heads, groups * m, n).
    """
    _, _, _, groups, size, _ = q.shape

    def of_step(x: jax.Array) -> jax.Array:
        return x[number // (steps // x.shape[0])]

    def of_block(index: jax.Array) -> tuple[jax.Array | None, jax.Array | None]:
        added = None if bias is None else of_step(bias)[:, None, None, :]
        if mask is None:
            return added, None
        allowed = _block_mask(jax.tree.map(of_step, mask), index, size)
        if allowed.shape[1] == 1:
            return added, allowed[:, None]
        shape = (allowed.shape[0], 1, groups, size, keys)
        allowed = jnp.broadcast_to(allowed[:, None, None], shape)
        return added, allowed.reshape(*shape[:2], groups * size, keys)

    return of_block


def _block_mask(mask: Mask, index: jax.Array, size: int) -> jax.Array:
    """Returns (batch, m or 1, n) bool of the block of queries with this number."""

    def rows(x: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice_in_dim(x, index * size, size, axis=1)

    if isinstance(mask, IndexMask):
        return IndexMask(jax.tree.map(rows, mask.queries), mask.keys, mask.spec).holds()
    return mask if mask.shape[1] == 1 else rows(mask)


def _joined(x: jax.Array) -> jax.Array:
    """(batch, heads, groups, m, d) -> (batch, heads, groups * m, d)."""
    return x.reshape(*x.shape[:2], -1, x.shape[-1])


def _each(function: Callable[[jax.Array, Any], Any], arrays: Any) -> Any:
    """Returns `function(i, arrays[i])` of each i, stacked; without a loop if there is one i."""
    count = jax.tree.leaves(arrays)[0].shape[0]
    if count == 1:
        result = function(jnp.int32(0), jax.tree.map(lambda x: x[0], arrays))
        return jax.tree.map(lambda x: x[None], result)
    return jax.lax.map(lambda pair: function(*pair), (jnp.arange(count), arrays))


def _largest_divisor(number: int, limit: int) -> int:
    return next(n for n in range(min(number, limit), 0, -1) if number % n == 0)
