"""A Pallas kernel for TPUs: attention within frames of which each has a length of its own.

One step of the grid holds a frame and a few heads in VMEM and loops over as many blocks as the
frame's length asks for, which it reads ahead from the prefetched lengths. Keys go down and queries
across, so that a softmax's largest score and sum are rows, as wide as a tile. The backward pass is
one kernel too: it makes each block of scores once and all three gradients of it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from stts_jax.layers.attention.masks import FORBIDDEN
from stts_jax.layers.attention.tiles import product

# Of one block of scores: queries are a tile's lanes, keys its sublanes.
QUERIES, KEYS = 128, 64
# What the arrays of one step may take in VMEM, twice over as the next step's are fetched ahead.
STEP_BYTES = 6 * 2**20
# What a program may take of it where nothing else is said: v5e has the least.
VMEM_BYTES = 16 * 2**20
# A width takes up whole tiles of so many lanes.
LANES = 128


def frame_refusal(places: int, itemsize: int) -> str | None:
    """Why frames of so many places are too long for the backward pass of a head, or None."""
    # Seven arrays, fetched ahead, and two sums in float32.
    needed = places * LANES * (2 * 7 * itemsize + 2 * 4)
    if needed <= VMEM_BYTES:
        return None
    taken, there = needed // 2**20, VMEM_BYTES // 2**20
    return f"frames of {places} places would take {taken} MiB of VMEM, {there} are there"


def frame_places(longest: int) -> int:
    """Places of a frame as the kernel wants them: `longest`, up to a multiple of its block."""
    return -(-longest // QUERIES) * QUERIES


def kernel_scores(lengths: np.ndarray) -> int:
    """Scores that are made for frames of these lengths, of each head; ideal are their squares."""
    return int((-(-lengths // QUERIES) * QUERIES * (-(-lengths // KEYS) * KEYS)).sum())


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def frame_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, lengths: jax.Array, interpret: bool = False
) -> jax.Array:
    """Attention among the first `lengths[f]` places of each frame.

    Args:
      query, key, value: (F, H, N, d), N from `frame_places`; finite at all places.
      lengths: (F,) int32.
      interpret: run the kernel's Python on any device, slowly.

    Returns:
      (F, H, N, d) in the dtype of `value`; of no meaning behind a frame's length, whose gradient
      must be 0.
    """
    return _forward(query, key, value, lengths, interpret)[0]


def _forward(
    query: jax.Array, key: jax.Array, value: jax.Array, lengths: jax.Array, interpret: bool
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    frames, heads, places, width = query.shape
    together = _heads_of_a_step(heads, places, query.dtype.itemsize, arrays=4)
    wide, row = _blocks(together, places, width)
    out, log_total = pl.pallas_call(
        partial(_forward_kernel, heads=together, scale=width**-0.5),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(frames, heads // together),
            in_specs=[wide] * 3,
            out_specs=[wide, row],
        ),
        out_shape=[
            jax.ShapeDtypeStruct(query.shape, value.dtype),
            jax.ShapeDtypeStruct((frames, heads, 1, places), jnp.float32),
        ],
        compiler_params=_PARALLEL,
        interpret=interpret,
        name="frame_attention",
    )(lengths, query, key, value)
    return out, (query, key, value, lengths, out, log_total)


def _backward(
    interpret: bool, kept: tuple[jax.Array, ...], gradient: jax.Array
) -> tuple[jax.Array | None, ...]:
    query, key, value, lengths, out, log_total = kept
    frames, heads, places, width = query.shape
    share = (gradient.astype(jnp.float32) * out.astype(jnp.float32)).sum(-1)[:, :, None]
    together = _heads_of_a_step(heads, places, query.dtype.itemsize, arrays=7)
    wide, row = _blocks(together, places, width)
    gradients = pl.pallas_call(
        partial(_backward_kernel, heads=together, scale=width**-0.5),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(frames, heads // together),
            in_specs=[wide] * 4 + [row] * 2,
            out_specs=[wide] * 3,
            scratch_shapes=[pltpu.VMEM((places, width), jnp.float32)] * 2,
        ),
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (query, key, value)],
        compiler_params=_PARALLEL,
        interpret=interpret,
        name="frame_attention_backward",
    )(lengths, query, key, value, gradient.astype(value.dtype), log_total, share)
    return *gradients, None


frame_attention.defvjp(_forward, _backward)

_PARALLEL = pltpu.CompilerParams(dimension_semantics=("parallel", "parallel"))


def _blocks(heads: int, places: int, width: int) -> tuple[pl.BlockSpec, pl.BlockSpec]:
    """Of (F, H, N, d) arrays, and of (F, H, 1, N) rows of one number a query."""

    def of_step(frame: jax.Array, group: jax.Array, _: Any) -> tuple[Any, ...]:
        return frame, group, 0, 0

    return (
        pl.BlockSpec((1, heads, places, width), of_step),
        pl.BlockSpec((1, heads, 1, places), of_step),
    )


def _heads_of_a_step(heads: int, places: int, itemsize: int, arrays: int) -> int:
    fitting = max(STEP_BYTES // (arrays * places * LANES * itemsize), 1)
    return next(n for n in range(min(heads, fitting), 0, -1) if heads % n == 0)


def _scores(key: jax.Array, query: jax.Array, first: jax.Array, length: Any, scale: float) -> Any:
    """(KEYS, QUERIES) float32; keys behind the frame's length are forbidden."""
    scores = product(key, query, (1, 1)) * scale
    places = first + jax.lax.broadcasted_iota(jnp.int32, scores.shape, 0)
    return jnp.where(places < length, scores, FORBIDDEN)


def _forward_kernel(
    lengths: Any,
    query: Any,
    key: Any,
    value: Any,
    out: Any,
    log_total: Any,
    *,
    heads: int,
    scale: float,
) -> None:
    length = lengths[pl.program_id(0)]
    out[...] = jnp.zeros(out.shape, out.dtype)
    log_total[...] = jnp.zeros(log_total.shape, log_total.dtype)
    width = query.shape[-1]

    def of_queries(head: int, number: jax.Array) -> None:
        across = pl.ds(pl.multiple_of(number * QUERIES, QUERIES), QUERIES)
        queries = query[0, head, across, :]

        def of_keys(number: jax.Array, sums: Any) -> Any:
            largest, total, attended = sums
            down = pl.ds(pl.multiple_of(number * KEYS, KEYS), KEYS)
            scores = _scores(key[0, head, down, :], queries, number * KEYS, length, scale)
            values = value[0, head, down, :]
            now = jnp.maximum(largest, scores.max(0, keepdims=True))
            weights, left = jnp.exp(scores - now), jnp.exp(largest - now)
            more = product(values, weights.astype(values.dtype), (0, 0))
            return now, total * left + weights.sum(0, keepdims=True), attended * left + more

        nothing = jnp.full((1, QUERIES), FORBIDDEN), jnp.zeros((1, QUERIES))
        sums = (*nothing, jnp.zeros((width, QUERIES)))
        largest, total, attended = jax.lax.fori_loop(0, pl.cdiv(length, KEYS), of_keys, sums)
        out[0, head, across, :] = (attended / total).T.astype(out.dtype)
        log_total[0, head, :, across] = largest + jnp.log(total)

    for head in range(heads):
        _each_block(partial(of_queries, head), length)


def _backward_kernel(
    lengths: Any,
    query: Any,
    key: Any,
    value: Any,
    gradient: Any,
    log_total: Any,
    share: Any,
    of_query: Any,
    of_key: Any,
    of_value: Any,
    key_sums: Any,
    value_sums: Any,
    *,
    heads: int,
    scale: float,
) -> None:
    length = lengths[pl.program_id(0)]
    of_query[...] = jnp.zeros(of_query.shape, of_query.dtype)

    def of_queries(head: int, number: jax.Array) -> None:
        across = pl.ds(pl.multiple_of(number * QUERIES, QUERIES), QUERIES)
        queries, gradients = query[0, head, across, :], gradient[0, head, across, :]
        logs, shares = log_total[0, head, :, across], share[0, head, :, across]

        def of_keys(number: jax.Array, query_sum: jax.Array) -> jax.Array:
            down = pl.ds(pl.multiple_of(number * KEYS, KEYS), KEYS)
            keys, values = key[0, head, down, :], value[0, head, down, :]
            weights = jnp.exp(_scores(keys, queries, number * KEYS, length, scale) - logs)
            value_sums[down, :] += product(weights.astype(gradients.dtype), gradients, (1, 0))
            of_weights = product(values, gradients, (1, 1))
            of_scores = (weights * (of_weights - shares) * scale).astype(queries.dtype)
            key_sums[down, :] += product(of_scores, queries, (1, 0))
            return query_sum + product(of_scores, keys, (0, 0))

        nothing = jnp.zeros((QUERIES, query.shape[-1]))
        query_sum = jax.lax.fori_loop(0, pl.cdiv(length, KEYS), of_keys, nothing)
        of_query[0, head, across, :] = query_sum.astype(of_query.dtype)

    for head in range(heads):
        key_sums[...] = jnp.zeros(key_sums.shape, key_sums.dtype)
        value_sums[...] = jnp.zeros(value_sums.shape, value_sums.dtype)
        _each_block(partial(of_queries, head), length)
        of_key[0, head] = key_sums[...].astype(of_key.dtype)
        of_value[0, head] = value_sums[...].astype(of_value.dtype)


def _each_block(of_queries: Callable[[jax.Array], None], length: jax.Array) -> None:
    jax.lax.fori_loop(0, pl.cdiv(length, QUERIES), lambda number, _: of_queries(number), None)
