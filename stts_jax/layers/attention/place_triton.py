"""A Pallas kernel for GPUs, by way of Triton, whose mask is a `PlaceMask`.

No Lq x Lk array is ever made. Pairs of blocks of which nobody may see anybody are told by the
numbers' ranges beforehand and never visited, and those of which all may see all need no mask: in a
long row these are most. What `place_kernel` is for TPUs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from stts_jax.layers.attention.gpu import (
    gpu_refusal,
    leads_refusal,
    mixed_refusal,
    type_refusal,
)
from stts_jax.layers.attention.masks import NOWHERE, PlaceMask
from stts_jax.layers.attention.place_blocks import across, block_lists, padded_mask
from stts_jax.layers.attention.place_kernel import place_shape_refusal
from stts_jax.layers.attention.place_triton_bodies import (
    Row,
    forward_kernel,
    key_kernel,
    query_kernel,
)
from stts_jax.layers.attention.request import Request
from stts_jax.layers.attention.triton_tiles import SIZE


def place_triton_refusal(request: Request) -> str | None:
    """Why the kernel cannot do what is asked, or None."""
    types = type_refusal(request.query, columns=0)
    mixed = mixed_refusal(request.query, request.key, request.value)
    leads = leads_refusal(request.query.shape[0])
    return gpu_refusal() or place_shape_refusal(request) or leads or types or mixed


def place_triton(request: Request, *, interpret: bool = False) -> jax.Array:
    """What `attention` returns, for a request that `place_shape_refusal` has nothing against."""
    request = request.with_one_mask()
    assert isinstance(request.mask, PlaceMask)
    mask = padded_mask(request.mask, request.query.shape[0], *request.lengths, SIZE)
    return _attend(request.query, request.key, request.value, mask, interpret)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attend(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: PlaceMask, interpret: bool
) -> jax.Array:
    """Of (B, Lq, H, d) and (B, Lk, K, d), and numbers (B, L) of whole blocks."""
    return _forward(query, key, value, mask, interpret)[0]


def _forward(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: PlaceMask, interpret: bool
) -> tuple[jax.Array, tuple[Any, ...]]:
    rows, length, heads, width = query.shape
    places = jax.ShapeDtypeStruct((rows * length, heads, width), value.dtype)
    logs = jax.ShapeDtypeStruct((heads, rows * length), jnp.float32)
    out, log_total = _call(
        partial(forward_kernel, row=_row_of(query, key, mask)),
        (pl.cdiv(length, SIZE), heads, rows),
        [places, logs],
        interpret,
    )(*_tables(mask), *map(_flat, (query, key, value)))
    out = out.reshape(query.shape)
    return out, (query, key, value, mask, out, log_total)


def _backward(interpret: bool, kept: tuple[Any, ...], gradient: jax.Array) -> tuple[Any, ...]:
    query, key, value, mask, out, log_total = kept
    rows, length, heads, _ = query.shape
    sees = (log_total > NOWHERE).T.reshape(*query.shape[:3], 1)
    gradient = jnp.where(sees, gradient, 0).astype(value.dtype)
    share = (gradient.astype(jnp.float32) * out.astype(jnp.float32)).sum(-1)
    arrays = (*map(_flat, (query, key, value, gradient)), log_total, share.reshape(-1, heads).T)
    row = _row_of(query, key, mask)
    (of_query,) = _call(
        partial(query_kernel, row=row),
        (pl.cdiv(length, SIZE), heads, rows),
        [_flat(query)],
        interpret,
    )(*_tables(mask), *arrays)
    of_key, of_value = _call(
        partial(key_kernel, row=row),
        (pl.cdiv(key.shape[1], SIZE), key.shape[2], rows),
        [_flat(key), _flat(value)],
        interpret,
        warps=8,  # of four each has more sums than registers
    )(*_tables(mask, of_keys=True), *arrays)
    return of_query.reshape(query.shape), *(x.reshape(key.shape) for x in (of_key, of_value)), None


_attend.defvjp(_forward, _backward)


def _row_of(query: jax.Array, key: jax.Array, mask: PlaceMask) -> Row:
    _, queries, heads, width = query.shape
    return Row(queries, key.shape[1], heads // key.shape[2], mask.rule, width**-0.5)


def _flat(x: jax.Array) -> jax.Array:
    """All rows' places one after the other: (B * L, heads, d)."""
    return x.reshape(-1, *x.shape[2:])


def _tables(mask: PlaceMask, *, of_keys: bool = False) -> tuple[jax.Array, ...]:
    """Blocks to visit, how many of them are seen whole and at all; queries' and keys' numbers."""
    lists = block_lists(mask, SIZE, of_keys=of_keys)
    numbers = (across(places, mask.rule) for places in (mask.queries, mask.keys))
    return lists.order, lists.whole, lists.needed, *numbers


def _call(
    kernel: Callable[..., None],
    grid: tuple[int, ...],
    outputs: list[Any],
    interpret: bool,
    warps: int = 4,
) -> Callable[..., Any]:
    return pl.pallas_call(
        kernel,
        grid=grid,
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in outputs],
        compiler_params=plgpu.CompilerParams(num_warps=warps, num_stages=2),
        interpret=interpret,
        name=f"place_{kernel.func.__name__}",
    )
