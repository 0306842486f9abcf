"""A Pallas flash attention for TPUs whose mask is a `PlaceMask`: no Lq x Lk array is ever made.

Blocks of keys that no query of a block may see are told by the numbers' ranges beforehand; they
are neither fetched nor computed. As in `stream_kernel`, keys go down and queries across, and heads
stay side by side as the projections leave them: a block is a head's lanes of some rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from stts_jax.layers.attention.choice import kernel_refusal
from stts_jax.layers.attention.masks import PlaceMask
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
# A head's lanes start where a tile does; heads of another width are filled up.
LANES = 128


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

    width = request.query.shape[-1]
    filled = -(-width // LANES) * LANES

    def lanes(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, filled - width)))
        return x.reshape(*x.shape[:2], -1)

    arrays = (lanes(x) for x in (request.query, request.key, request.value))
    out = _attend(*arrays, mask, _Sizes(size, filled, width**-0.5, (queries, keys), interpret))
    return out.reshape(rows, queries, -1, filled)[..., :width]


@dataclass(frozen=True)
class _Sizes:
    """What is known when tracing.

    Attributes:
      block: rows of a block.
      width: d, lanes of a head.
      scale: of the scores.
      lengths: Lq and Lk; the last block of each may be longer than what is left.
      interpret: see `place_attention`.
    """

    block: int
    width: int
    scale: float
    lengths: tuple[int, int]
    interpret: bool

    @property
    def blocks(self) -> tuple[int, int]:
        """Of queries, and of keys."""
        queries, keys = (pl.cdiv(length, self.block) for length in self.lengths)
        return queries, keys

    def heads(self, x: jax.Array) -> int:
        """Of a (B, L, heads * d) array."""
        return x.shape[2] // self.width

    def wide(self, place: Callable[..., tuple[Any, Any, Any]]) -> pl.BlockSpec:
        """A block of a head: `place` says row of the batch, block and head."""
        return pl.BlockSpec((None, self.block, self.width), place)

    def row(self, place: Callable[..., tuple[Any, ...]]) -> pl.BlockSpec:
        """One number for each row of a block, of a (B, H, 1, L) array."""
        return pl.BlockSpec((None, None, 1, self.block), place)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attend(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: PlaceMask, sizes: _Sizes
) -> jax.Array:
    """Of (B, Lq, H * d) and (B, Lk, K * d), and numbers (B, L) of whole blocks."""
    return _forward(query, key, value, mask, sizes)[0]


def _forward(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: PlaceMask, sizes: _Sizes
) -> tuple[jax.Array, tuple[Any, ...]]:
    rows, heads = query.shape[0], sizes.heads(query)
    groups, (blocks, _) = heads // sizes.heads(key), sizes.blocks
    size, width = sizes.block, sizes.width

    def theirs(b: Any, h: Any, i: Any, j: Any, needed: Any, fetched: Any) -> Any:
        return b, fetched[b, i, j], jax.lax.div(h, groups)

    wide, fetch = sizes.wide(lambda b, h, i, j, *_: (b, i, h)), sizes.wide(theirs)
    row = sizes.row(lambda b, h, i, j, *_: (b, h, 0, i))
    out, log_total = _call(
        partial(forward_kernel, rule=mask.rule, scale=sizes.scale, lengths=sizes.lengths),
        block_tables(mask, size),
        grid=(rows, heads, *sizes.blocks),
        in_specs=[*_number_specs(mask, size), wide, fetch, fetch],
        out_specs=[wide, row],
        out_shape=[
            jax.ShapeDtypeStruct(query.shape, value.dtype),
            jax.ShapeDtypeStruct((rows, heads, 1, blocks * size), jnp.float32),
        ],
        scratch=[(1, size), (1, size), (width, size)],
        interpret=sizes.interpret,
    )(across(mask.queries, mask.rule), down(mask.keys, mask.rule), query, key, value)
    return out, (query, key, value, mask, out, log_total)


def _backward(sizes: _Sizes, kept: tuple[Any, ...], gradient: jax.Array) -> tuple[Any, ...]:
    query, key, value, mask, out, log_total = kept
    gradient = gradient.astype(value.dtype)
    both = gradient.astype(jnp.float32) * out.astype(jnp.float32)
    share = both.reshape(*both.shape[:2], -1, sizes.width).sum(-1)
    behind = log_total.shape[-1] - share.shape[1]
    share = jnp.pad(jnp.swapaxes(share, 1, 2)[:, :, None], ((0, 0), (0, 0), (0, 0), (0, behind)))
    arrays = (query, key, value, gradient, log_total, share)
    of_query = _query_gradient(*arrays, mask, sizes)
    return of_query, *_key_gradients(*arrays, mask, sizes), None


_attend.defvjp(_forward, _backward)


def _query_gradient(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    gradient: jax.Array,
    log_total: jax.Array,
    share: jax.Array,
    mask: PlaceMask,
    sizes: _Sizes,
) -> jax.Array:
    rows, heads = query.shape[0], sizes.heads(query)
    groups = heads // sizes.heads(key)
    size, width = sizes.block, sizes.width

    def theirs(b: Any, h: Any, i: Any, j: Any, needed: Any, fetched: Any) -> Any:
        return b, fetched[b, i, j], jax.lax.div(h, groups)

    wide, fetch = sizes.wide(lambda b, h, i, j, *_: (b, i, h)), sizes.wide(theirs)
    row = sizes.row(lambda b, h, i, j, *_: (b, h, 0, i))
    return _call(
        partial(query_kernel, rule=mask.rule, scale=sizes.scale, lengths=sizes.lengths),
        block_tables(mask, size),
        grid=(rows, heads, *sizes.blocks),
        in_specs=[*_number_specs(mask, size), wide, fetch, fetch, wide, row, row],
        out_specs=wide,
        out_shape=jax.ShapeDtypeStruct(query.shape, query.dtype),
        scratch=[(size, width)],
        interpret=sizes.interpret,
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
    sizes: _Sizes,
) -> tuple[jax.Array, jax.Array]:
    """For each block of keys, all query heads that it serves and all their blocks in turn."""
    rows, key_heads = key.shape[0], sizes.heads(key)
    groups, (blocks, key_blocks) = sizes.heads(query) // key_heads, sizes.blocks
    size, width = sizes.block, sizes.width

    # The last dimension of the grid counts blocks of queries of one head after the other.
    def theirs(b: Any, h: Any, j: Any, n: Any, needed: Any, fetched: Any) -> Any:
        return b, fetched[b, j, jax.lax.rem(n, blocks)], h * groups + jax.lax.div(n, blocks)

    def their_row(b: Any, h: Any, j: Any, n: Any, needed: Any, fetched: Any) -> Any:
        return b, h * groups + jax.lax.div(n, blocks), 0, fetched[b, j, jax.lax.rem(n, blocks)]

    def their_numbers(b: Any, h: Any, j: Any, n: Any, needed: Any, fetched: Any) -> Any:
        return b, 0, fetched[b, j, jax.lax.rem(n, blocks)]

    numbers = len(mask.rule.numbers)
    wide, fetch = sizes.wide(lambda b, h, j, n, *_: (b, j, h)), sizes.wide(theirs)
    row = sizes.row(their_row)
    return _call(
        partial(
            key_kernel, rule=mask.rule, scale=sizes.scale, lengths=sizes.lengths, blocks=blocks
        ),
        block_tables(mask, size).transposed(),
        grid=(rows, key_heads, key_blocks, groups * blocks),
        in_specs=[
            pl.BlockSpec((None, numbers, size), their_numbers),
            pl.BlockSpec((None, size, numbers), lambda b, h, j, n, *_: (b, j, 0)),
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
        interpret=sizes.interpret,
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
        pl.BlockSpec((None, numbers, size), lambda b, h, i, j, *_: (b, 0, i)),
        pl.BlockSpec(
            (None, size, numbers), lambda b, h, i, j, n, fetched: (b, fetched[b, i, j], 0)
        ),
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
