"""What the GPU kernels read and write: places of one head, as tiles that Triton can multiply.

A tile's sides are powers of two from 16 on. A head of 72 is read as 64 and 16 columns rather than
as 128, so that 80 are multiplied; columns behind the head's width are 0 and never written.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from stts_jax.layers.attention.tiles import product

# (places, columns) of one head, side by side.
Tiles = tuple[jax.Array, ...]

SMALLEST_SIDE = 16
# Places of a block, of queries as of keys: sums and scores of two such fit into registers.
SIZE = 64


def tile_widths(width: int) -> tuple[int, ...]:
    """Columns of each tile of a head, in all as few as such tiles can have."""
    whole = max(SMALLEST_SIDE, 1 << (width - 1).bit_length())
    half = whole // 2
    if half >= SMALLEST_SIDE:
        apart = (half, *tile_widths(width - half))
        if sum(apart) < whole:
            return apart
    return (whole,)


def read_places(ref: Any, first: jax.Array, count: int, end: jax.Array, head: jax.Array) -> Tiles:
    """Places from `first` on of a head in (R, H, d); 0 from `end` on."""
    return tuple(
        plgpu.load(part, mask=inside, other=0.0)
        for part, inside in _parts(ref, first, count, end, head)
    )


def write_places(ref: Any, first: jax.Array, end: jax.Array, head: jax.Array, x: Tiles) -> None:
    """The same, written; nothing from `end` on."""
    parts = _parts(ref, first, x[0].shape[0], end, head)
    for tile, (part, inside) in zip(x, parts, strict=True):
        plgpu.store(part, tile.astype(ref.dtype), mask=inside)


def read_numbers(ref: Any, first: jax.Array, count: int, end: jax.Array, head: jax.Array) -> Any:
    """(count,) float32, one number a place of (H, R); 0 from `end` on."""
    inside = first + jnp.arange(count) < end
    return plgpu.load(ref.at[head, pl.ds(first, count)], mask=inside, other=0.0)


def write_numbers(ref: Any, first: jax.Array, end: jax.Array, head: jax.Array, x: Any) -> None:
    """The same, written; nothing from `end` on."""
    inside = first + jnp.arange(x.shape[0]) < end
    plgpu.store(ref.at[head, pl.ds(first, x.shape[0])], x, mask=inside)


def _parts(
    ref: Any, first: jax.Array, count: int, end: jax.Array, head: jax.Array
) -> Iterator[tuple[Any, jax.Array]]:
    width, column = ref.shape[-1], 0
    for size in tile_widths(width):
        places = first + jnp.arange(count) < end
        # As an array: a plain number would be refused where the tile reaches beyond the head.
        start = jnp.full((), column, jnp.int32)
        inside = places[:, None] & (column + jnp.arange(size) < width)[None, :]
        yield ref.at[pl.ds(first, count), head, pl.ds(start, size)], inside
        column += size


def dot_products(x: Tiles, y: Tiles) -> jax.Array:
    """(places of x, places of y) float32."""
    total = product(x[0], y[0], (1, 1))
    for ours, theirs in zip(x[1:], y[1:], strict=True):
        total = total + product(ours, theirs, (1, 1))
    return total


def weighted(weights: jax.Array, x: Tiles) -> Tiles:
    """`weights @ x`, float32; weights (n, places of x) are rounded to the type of x."""
    return tuple(product(weights.astype(tile.dtype), tile, (1, 0)) for tile in x)


def zeros(count: int, width: int) -> Tiles:
    """Sums to start with."""
    return tuple(jnp.zeros((count, size), jnp.float32) for size in tile_widths(width))


def plus(x: Tiles, y: Tiles) -> Tiles:
    """Tile by tile."""
    return tuple(ours + theirs for ours, theirs in zip(x, y, strict=True))


def times(x: Tiles, factor: Any) -> Tiles:
    """Tile by tile."""
    return tuple(tile * factor for tile in x)
