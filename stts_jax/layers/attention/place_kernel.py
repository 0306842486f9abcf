"""A Pallas flash attention for TPUs whose mask is a `PlaceMask`: no Lq x Lk array is ever made.

Blocks of keys that no query of a block may see are told by the numbers' ranges beforehand; they
are neither fetched nor computed. As in `stream_kernel`, keys go down and queries across.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from stts_jax.layers.attention.choice import kernel_refusal
from stts_jax.layers.attention.masks import NOWHERE, PlaceMask
from stts_jax.layers.attention.place_blocks import (
    BlockTables,
    across,
    block_tables,
    down,
    padded_mask,
)
from stts_jax.layers.attention.place_bodies import forward_kernel, key_kernel, query_kernel
from stts_jax.layers.attention.request import Request

BLOCKS = (512, 256, 128)
SHORTEST = BLOCKS[-1]


def place_refusal(request: Request) -> str | None:
    """Why the kernel cannot do what is asked, or None."""
    return kernel_refusal("tpu") or place_shape_refusal(request)


def place_shape_refusal(request: Request) -> str | None:
    """The same of what holds for any device."""
    if not isinstance(request.with_one_mask().mask, PlaceMask):
        return "it is for masks that are made of each place's numbers"
    if request.key_bias is not None:
        return "it takes no bias"
    if request.query.ndim != 4 or min(request.lengths) < SHORTEST:
        return f"it is for (B, L, H, d) with L of {SHORTEST} or more"
    return None


def place_attention(request: Request, *, interpret: bool = False) -> jax.Array:
    """What `attention` returns, for a request that `place_shape_refusal` has nothing against."""
    request = request.with_one_mask()
    assert isinstance(request.mask, PlaceMask)
    rows, queries, _, _ = request.query.shape
    keys = request.key.shape[1]
    size = next(n for n in BLOCKS if n <= min(queries, keys))
    mask = padded_mask(request.mask, rows, queries, keys, size)

    def heads_first(x: jax.Array) -> jax.Array:
        return jnp.pad(jnp.swapaxes(x, 1, 2), ((0, 0), (0, 0), (0, -x.shape[1] % size), (0, 0)))

    arrays = (heads_first(x) for x in (request.query, request.key, request.value))
    out = _attend(*arrays, mask, size, interpret)
    return jnp.swapaxes(out[:, :, :queries], 1, 2)


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _attend(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: PlaceMask, size: int, interpret: bool
) -> jax.Array:
    """Of (B, H, Lq, d) and (B, K, Lk, d) in whole blocks, and numbers (B, L)."""
    return _forward(query, key, value, mask, size, interpret)[0]


def _forward(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: PlaceMask, size: int, interpret: bool
) -> tuple[jax.Array, tuple[Any, ...]]:
    rows, heads, length, width = query.shape
    groups = heads // key.shape[1]
    tables = block_tables(mask, size)

    def own(b: Any, h: Any, i: Any, j: Any, *_: Any) -> Any:
        return b, h, i, 0

    def theirs(b: Any, h: Any, i: Any, j: Any, needed: Any, fetched: Any) -> Any:
        return b, jax.lax.div(h, groups), fetched[b, i, j], 0

    wide = pl.BlockSpec((1, 1, size, width), own)
    fetch = pl.BlockSpec((1, 1, size, width), theirs)
    row = pl.BlockSpec((1, 1, 1, size), lambda b, h, i, j, *_: (b, h, 0, i))
    out, log_total = _call(
        partial(forward_kernel, rule=mask.rule, scale=width**-0.5),
        tables,
        grid=(rows, heads, length // size, key.shape[2] // size),
        in_specs=[*_number_specs(mask, size), wide, fetch, fetch],
        out_specs=[wide, row],
        out_shape=[
            jax.ShapeDtypeStruct(query.shape, value.dtype),
            jax.ShapeDtypeStruct((rows, heads, 1, length), jnp.float32),
        ],
        scratch=[(1, size), (1, size), (width, size)],
        interpret=interpret,
    )(across(mask.queries, mask.rule), down(mask.keys, mask.rule), query, key, value)
    return out, (query, key, value, mask, out, log_total)


def _backward(
    size: int, interpret: bool, kept: tuple[Any, ...], gradient: jax.Array
) -> tuple[Any, ...]:
    query, key, value, mask, out, log_total = kept
    gradient = jnp.where(jnp.swapaxes(log_total, 2, 3) > NOWHERE, gradient, 0).astype(value.dtype)
    share = (gradient.astype(jnp.float32) * out.astype(jnp.float32)).sum(-1)[:, :, None]
    arrays = (query, key, value, gradient, log_total, share)
    of_query = _query_gradient(*arrays, mask, size, interpret)
    return of_query, *_key_gradients(*arrays, mask, size, interpret), None


_attend.defvjp(_forward, _backward)


def _query_gradient(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    gradient: jax.Array,
    log_total: jax.Array,
    share: jax.Array,
    mask: PlaceMask,
    size: int,
    interpret: bool,
) -> jax.Array:
    rows, heads, length, width = query.shape
    groups = heads // key.shape[1]

    def theirs(b: Any, h: Any, i: Any, j: Any, needed: Any, fetched: Any) -> Any:
        return b, jax.lax.div(h, groups), fetched[b, i, j], 0

    wide = pl.BlockSpec((1, 1, size, width), lambda b, h, i, j, *_: (b, h, i, 0))
    fetch = pl.BlockSpec((1, 1, size, width), theirs)
    row = pl.BlockSpec((1, 1, 1, size), lambda b, h, i, j, *_: (b, h, 0, i))
    return _call(
        partial(query_kernel, rule=mask.rule, scale=width**-0.5),
        block_tables(mask, size),
        grid=(rows, heads, length // size, key.shape[2] // size),
        in_specs=[*_number_specs(mask, size), wide, fetch, fetch, wide, row, row],
        out_specs=wide,
        out_shape=jax.ShapeDtypeStruct(query.shape, query.dtype),
        scratch=[(size, width)],
        interpret=interpret,
    )(
        across(mask.queries, mask.rule),
        down(mask.keys, mask.rule),
        query,
        key,
        value,
        gradient,
        log_total,
        share,
    )


def _key_gradients(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    gradient: jax.Array,
    log_total: jax.Array,
    share: jax.Array,
    mask: PlaceMask,
    size: int,
    interpret: bool,
) -> tuple[jax.Array, jax.Array]:
    """For each block of keys, all query heads that it serves and all their blocks in turn."""
    rows, key_heads, length, width = key.shape
    groups = query.shape[1] // key_heads
    blocks = query.shape[2] // size

    # The last dimension of the grid counts blocks of queries of one head after the other.
    def theirs(b: Any, h: Any, j: Any, n: Any, needed: Any, fetched: Any) -> Any:
        return b, h * groups + jax.lax.div(n, blocks), fetched[b, j, jax.lax.rem(n, blocks)], 0

    def their_row(b: Any, h: Any, j: Any, n: Any, needed: Any, fetched: Any) -> Any:
        return b, h * groups + jax.lax.div(n, blocks), 0, fetched[b, j, jax.lax.rem(n, blocks)]

    def their_numbers(b: Any, h: Any, j: Any, n: Any, needed: Any, fetched: Any) -> Any:
        return b, 0, fetched[b, j, jax.lax.rem(n, blocks)]

    numbers = len(mask.rule.numbers)
    wide = pl.BlockSpec((1, 1, size, width), lambda b, h, j, n, *_: (b, h, j, 0))
    fetch = pl.BlockSpec((1, 1, size, width), theirs)
    row = pl.BlockSpec((1, 1, 1, size), their_row)
    return _call(
        partial(key_kernel, rule=mask.rule, scale=width**-0.5, blocks=blocks),
        block_tables(mask, size).transposed(),
        grid=(rows, key_heads, length // size, groups * blocks),
        in_specs=[
            pl.BlockSpec((1, numbers, size), their_numbers),
            pl.BlockSpec((1, size, numbers), lambda b, h, j, n, *_: (b, j, 0)),
            fetch,
            wide,
            wide,
            fetch,
            row,
            row,
        ],
        out_specs=[wide, wide],
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (key, value)],
        scratch=[(size, width), (size, width)],
        interpret=interpret,
    )(
        across(mask.queries, mask.rule),
        down(mask.keys, mask.rule),
        query,
        key,
        value,
        gradient,
        log_total,
        share,
    )


def _number_specs(mask: PlaceMask, size: int) -> list[pl.BlockSpec]:
    numbers = len(mask.rule.numbers)
    return [
        pl.BlockSpec((1, numbers, size), lambda b, h, i, j, *_: (b, 0, i)),
        pl.BlockSpec((1, size, numbers), lambda b, h, i, j, n, fetched: (b, fetched[b, i, j], 0)),
    ]


def _call(
    kernel: Callable[..., None],
    tables: BlockTables,
    *,
    grid: tuple[int, ...],
    in_specs: list[pl.BlockSpec],
    out_specs: Any,
    out_shape: Any,
    scratch: list[tuple[int, int]],
    interpret: bool,
) -> Callable[..., Any]:
    run = pl.pallas_call(
        kernel,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=grid,
            in_specs=in_specs,
            out_specs=out_specs,
            scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in scratch],
        ),
        out_shape=out_shape,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "parallel", "arbitrary")
        ),
        interpret=interpret,
    )
    return partial(run, tables.needed, tables.fetched)
