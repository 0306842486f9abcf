"""Attention in plain XLA with a gradient of its own: no more than a block of scores at a time.

Only what attention is given and returns is kept for the backward pass, and one number a query.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from stts_jax.layers.attention.block import block_backward, block_forward
from stts_jax.layers.attention.masks import Mask, PlaceMask, visible

# Scores of one block. On CPUs they go through the cache several times: a megabyte or two each
# is what a cache holds, and one frame of 729 patches and one head are best done whole.
CPU_SCORES = 2**20
# Elsewhere a block goes over all rows and heads, to keep all units busy, and has no fewer queries.
ACCELERATOR_SCORES = 2**28
ACCELERATOR_QUERIES = 256


@dataclass(frozen=True)
class BlockPlan:
    """How the work is cut.

    Attributes:
      leads: of the leading dimensions together, how many a step takes.
      heads: key heads that a step takes; all, where `leads` is more than 1.
      blocks: blocks of queries in a step.
    """

    leads: int
    heads: int
    blocks: int


def block_plan(leads: int, heads: int, queries: int, scores: int, platform: str) -> BlockPlan:
    """The plan for `leads` x `heads` products of `scores` scores each, of `queries` places.

    On a CPU steps follow one another and each fits the cache; elsewhere all heads go together, and
    as many leads as blocks of no fewer queries than keep all units busy leave room for.
    """
    if platform != "cpu":
        blocks = -(-leads * heads * scores // ACCELERATOR_SCORES)
        blocks = min(blocks, -(-queries // ACCELERATOR_QUERIES))
        together = max(ACCELERATOR_SCORES * blocks // (heads * scores), 1)
        return BlockPlan(_largest_divisor(leads, together), heads, blocks)
    together = max(CPU_SCORES // scores, 1)
    if together >= heads:
        return BlockPlan(_largest_divisor(leads, together // heads), heads, 1)
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
    """As `attention`, for any shapes.

    Args:
      query, key, value, mask, key_bias: see `attention`.
      plan: how the work is cut; what suits the platform, if not given.
    """
    *lead, length, _, width = query.shape
    leads, (places, heads) = math.prod(lead), key.shape[-3:-1]
    groups = query.shape[-2] // heads
    if plan is None:
        scores = groups * length * places
        plan = block_plan(leads, heads, length, scores, jax.default_backend())
    size = -(-length // plan.blocks)
    rest = plan.blocks * size - length

    def steps(x: jax.Array) -> jax.Array:
        """(leads, heads, ...) -> (steps, leads of a step, heads of a step, ...)."""
        return x.reshape(-1, plan.leads, plan.heads, *x.shape[2:])

    # (leads, heads, blocks, groups, size, d): query heads of a key head side by side.
    queries = jnp.pad(
        query.reshape(leads, length, heads, groups, width), ((0, 0), (0, rest)) + ((0, 0),) * 3
    )
    queries = queries.reshape(leads, plan.blocks, size, heads, groups, width)
    queries = queries.transpose(0, 3, 1, 4, 2, 5)
    keys, values = (
        jnp.moveaxis(x.reshape(leads, places, heads, width), 2, 1) for x in (key, value)
    )
    if mask is not None:
        mask = _mask_steps(mask, tuple(lead), plan, rest)
    if key_bias is not None:
        key_bias = _lead_steps(key_bias.astype(jnp.float32), tuple(lead), 1, plan)
    out = _attend(steps(queries), steps(keys), steps(values), key_bias, mask)
    out = out.reshape(leads, heads, plan.blocks, groups, size, width).transpose(0, 2, 4, 1, 3, 5)
    out = out.reshape(leads, plan.blocks * size, heads * groups, width)[:, :length]
    return out.reshape(query.shape)


@jax.custom_vjp
def _attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    bias: jax.Array | None,
    mask: Mask | None,
) -> jax.Array:
    """Step after step, block after block.

    Args:
      query: (steps, leads, heads, blocks, groups, m, d).
      key, value: (steps, leads, heads, n, d).
      bias: (lead steps, leads, n), where several steps in a row may be of the same lead.
      mask: (lead steps, leads, blocks * m or 1, n), or a `PlaceMask` of (lead steps, leads, L).

    Returns:
      as `query`.
    """
    return _attend_forward(query, key, value, bias, mask)[0]


def _attend_forward(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    bias: jax.Array | None,
    mask: Mask | None,
) -> tuple[jax.Array, tuple[Any, ...]]:
    def step(number: jax.Array, arrays: tuple[jax.Array, ...]) -> Any:
        query, key, value = arrays
        limits = _limits(number, query, bias, mask, key.shape[-2], steps=total)

        def block(index: jax.Array, query: jax.Array) -> Any:
            return block_forward(_joined(query), key, value, *limits(index))

        out, log_total = _each(block, jnp.moveaxis(query, 2, 0))
        return jnp.moveaxis(out, 0, 2), jnp.moveaxis(log_total, 0, 2)

    total = query.shape[0]
    # A mask of the step's own: one that hung on nothing else would be made for all blocks and heads
    # before the layers' loop, and kept for its backward pass.
    if mask is not None:
        query, mask = jax.lax.optimization_barrier((query, mask))
    out, log_total = _each(step, (query, key, value))
    out = out.reshape(query.shape)
    return out, (query, key, value, bias, mask, out, log_total)


def _attend_backward(kept: tuple[Any, ...], gradient: jax.Array) -> tuple[Any, ...]:
    query, key, value, bias, mask, out, log_total = kept

    def step(number: jax.Array, arrays: tuple[jax.Array, ...]) -> Any:
        query, key, value, *rest = arrays
        limits = _limits(number, query, bias, mask, key.shape[-2], steps=total)

        def block(sums: Any, index_and_block: Any) -> Any:
            index, (query, out, log_total, gradient) = index_and_block
            queries, out, gradient = (_joined(x) for x in (query, out, gradient))
            of_query, *more = block_backward(
                queries, key, value, *limits(index), out, log_total, gradient
            )
            more[-1] = more[-1].sum(1)
            return tuple(map(jnp.add, sums, more)), of_query.reshape(query.shape)

        wide = jnp.zeros(key.shape, jnp.float32)
        sums = (wide, wide, wide[:, 0, :, 0])
        parts = tuple(jnp.moveaxis(x, 2, 0) for x in (query, *rest))
        if query.shape[2] == 1:
            first = jax.tree.map(lambda x: x[0], parts)
            sums, of_query = block(sums, (jnp.int32(0), first))
            of_query = of_query[None]
        else:
            sums, of_query = jax.lax.scan(block, sums, (jnp.arange(query.shape[2]), parts))
        return jnp.moveaxis(of_query, 0, 2), *sums

    total = query.shape[0]
    of_query, of_key, of_value, of_bias = _each(step, (query, key, value, out, log_total, gradient))
    if bias is not None:
        of_bias = of_bias.reshape(bias.shape[0], -1, *bias.shape[1:]).sum(1)
    return (
        of_query.astype(query.dtype),
        of_key.astype(key.dtype),
        of_value.astype(value.dtype),
        None if bias is None else of_bias,
        None,
    )


_attend.defvjp(_attend_forward, _attend_backward)


def _lead_steps(x: jax.Array, lead: tuple[int, ...], inner: int, plan: BlockPlan) -> jax.Array:
    """(..., *inner) -> (lead steps, leads of a step, *inner), `inner` being how many dimensions."""
    own = x.shape[x.ndim - inner :]
    return jnp.broadcast_to(x, (*lead, *own)).reshape(-1, plan.leads, *own)


def _mask_steps(mask: Mask, lead: tuple[int, ...], plan: BlockPlan, rest: int) -> Mask:
    """The mask as `_attend` wants it, with room for `rest` queries more."""
    if isinstance(mask, PlaceMask):
        steps = jax.tree.map(lambda x: _lead_steps(x, lead, 1, plan), mask)
        room = ((0, 0), (0, 0), (0, rest))
        queries = jax.tree.map(lambda x: jnp.pad(x, room), steps.queries)
        return PlaceMask(queries, steps.keys, mask.rule)
    steps = _lead_steps(mask, lead, 2, plan)
    room = ((0, 0), (0, 0), (0, rest if mask.shape[-2] > 1 else 0), (0, 0))
    return jnp.pad(steps, room)


def _limits(
    number: jax.Array,
    query: jax.Array,
    bias: jax.Array | None,
    mask: Mask | None,
    places: int,
    *,
    steps: int,
) -> Callable[[jax.Array], tuple[jax.Array | None, jax.Array | None]]:
    """Bias and mask of a step's blocks, broadcastable to (leads, heads, groups * m, n)."""
    _, _, _, groups, size, _ = query.shape

    def of_lead(x: jax.Array) -> jax.Array:
        return x[number // (steps // x.shape[0])]

    def of_block(index: jax.Array) -> tuple[jax.Array | None, jax.Array | None]:
        added = None if bias is None else of_lead(bias)[:, None, None, :]
        if mask is None:
            return added, None
        allowed = _block_mask(jax.tree.map(of_lead, mask), index, size)
        if allowed.shape[1] == 1:
            return added, allowed[:, None]
        shape = (allowed.shape[0], 1, groups, size, places)
        allowed = jnp.broadcast_to(allowed[:, None, None], shape)
        return added, allowed.reshape(*shape[:2], groups * size, places)

    return of_block


def _block_mask(mask: Mask, index: jax.Array, size: int) -> jax.Array:
    """(leads, m or 1, n) bool of the block of queries with this number."""

    def rows(x: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice_in_dim(x, index * size, size, axis=1)

    if isinstance(mask, PlaceMask):
        queries = jax.tree.map(lambda x: rows(x)[:, :, None], mask.queries)
        return visible(mask.rule, queries, jax.tree.map(lambda x: x[:, None, :], mask.keys))
    return mask if mask.shape[1] == 1 else rows(mask)


def _joined(x: jax.Array) -> jax.Array:
    """(leads, heads, groups, m, d) -> (leads, heads, groups * m, d)."""
    return x.reshape(*x.shape[:2], -1, x.shape[-1])


def _each(function: Callable[[jax.Array, Any], Any], arrays: Any) -> Any:
    """`function(i, arrays[i])` one after the other, stacked; without a loop if there is one."""
    count = jax.tree.leaves(arrays)[0].shape[0]
    if count == 1:
        result = function(jnp.int32(0), jax.tree.map(lambda x: x[0], arrays))
        return jax.tree.map(lambda x: x[None], result)
    return jax.lax.map(lambda pair: function(*pair), (jnp.arange(count), arrays))


def _largest_divisor(number: int, limit: int) -> int:
    return next(n for n in range(min(number, limit), 0, -1) if number % n == 0)
