"""Tiles of one head that the GPU kernels read, multiply and write, by way of Triton.

Triton multiplies tiles whose sides are powers of two from 16 on. A head of 72 is read as 64 and 16
columns rather than 128, so that 80 are multiplied; columns behind the head's width are 0 and never
written.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from stts_jax.attention.softmax import dot

# (tokens, columns) of one head, side by side.
Tiles = tuple[jax.Array, ...]

SMALLEST_SIDE = 16
# Tokens of a block, of queries as of keys: sums and scores of two such fit into registers.
SIZE = 64


def tile_widths(width: int) -> tuple[int, ...]:
    """Returns the columns of each tile of a head, in all as few as such tiles can have."""
    whole = max(SMALLEST_SIDE, 1 << (width - 1).bit_length())
    half = whole // 2
    if half >= SMALLEST_SIDE:
        apart = (half, *tile_widths(width - half))
        if sum(apart) < whole:
            return apart
    return (whole,)


def read_tokens(ref: Any, first: Any, end: Any, head: Any) -> Tiles:
    """Returns a block of a head of (R, H, d) from row `first` on, 0 from row `end` on."""
    return tuple(
        plgpu.load(part, mask=inside, other=0.0) for part, inside in _parts(ref, first, end, head)
    )


def write_tokens(ref: Any, first: Any, end: Any, head: Any, x: Tiles) -> None:
    """Writes a block of a head of (R, H, d) from row `first` on, nothing from row `end` on."""
    for tile, (part, inside) in zip(x, _parts(ref, first, end, head), strict=True):
        plgpu.store(part, tile.astype(ref.dtype), mask=inside)


def read_row(ref: Any, first: Any, end: Any, head: Any) -> jax.Array:
    """Returns a block (SIZE,) float32 of (H, R), such as lse; 0 from `end` on."""
    inside = first + jnp.arange(SIZE) < end
    row: jax.Array = plgpu.load(ref.at[head, pl.ds(first, SIZE)], mask=inside, other=0.0)
    return row


def write_row(ref: Any, first: Any, end: Any, head: Any, x: jax.Array) -> None:
    """Writes a block (SIZE,) of (H, R), nothing from `end` on."""
    inside = first + jnp.arange(SIZE) < end
    plgpu.store(ref.at[head, pl.ds(first, SIZE)], x, mask=inside)


def _parts(ref: Any, first: Any, end: Any, head: Any) -> Iterator[tuple[Any, jax.Array]]:
    width, column = ref.shape[-1], 0
    for size in tile_widths(width):
        tokens = first + jnp.arange(SIZE) < end
        # As an array: a plain number would be refused where the tile reaches beyond the head.
        start = jnp.full((), column, jnp.int32)
        inside = tokens[:, None] & (column + jnp.arange(size) < width)[None, :]
        yield ref.at[pl.ds(first, SIZE), head, pl.ds(start, size)], inside
        column += size


def dot_products(x: Tiles, y: Tiles) -> jax.Array:
    """Returns x y^T, (tokens of x, tokens of y) float32."""
    total = dot(x[0], y[0], (1, 1))
    for ours, theirs in zip(x[1:], y[1:], strict=True):
        total = total + dot(ours, theirs, (1, 1))
    return total


def weighted(p: jax.Array, x: Tiles) -> Tiles:
    """Returns p x in float32; p (n, tokens of x) is rounded to the type of x."""
    return tuple(dot(p.astype(tile.dtype), tile, (1, 0)) for tile in x)


def zeros(width: int) -> Tiles:
    """Returns float32 zeros of a block of a head."""
    return tuple(jnp.zeros((SIZE, size), jnp.float32) for size in tile_widths(width))


def plus(x: Tiles, y: Tiles) -> Tiles:
    """Returns x + y."""
    return tuple(ours + theirs for ours, theirs in zip(x, y, strict=True))


def times(x: Tiles, factor: Any) -> Tiles:
    """Returns x times a factor that broadcasts."""
    return tuple(tile * factor for tile in x)
