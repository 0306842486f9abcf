"""What `place_triton`'s three kernels do for one block.

The first five arguments of each: the blocks of the other side to visit, (B, blocks, blocks); how
many of these are seen whole, and how many at all, (B, blocks); the numbers that the mask compares,
(B, numbers, L) of queries and of keys. Elsewhere the places of all rows lie one after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from stts_jax.layers.attention.masks import FORBIDDEN, Places, Rule, visible
from stts_jax.layers.attention.triton_loops import (
    attend_blocks,
    attended,
    key_gradients,
    nothing_yet,
    query_gradient,
)
from stts_jax.layers.attention.triton_tiles import (
    SIZE,
    Tiles,
    read_numbers,
    read_places,
    times,
    write_numbers,
    write_places,
    zeros,
)


@dataclass(frozen=True)
class Row:
    """What is known of a row when a kernel is compiled.

    Attributes:
      queries, keys: places.
      groups: heads of queries for each of keys.
      rule: of the mask.
      scale: of the scores.
    """

    queries: int
    keys: int
    groups: int
    rule: Rule
    scale: float


class _Side:
    """Queries or keys of this program's row: where their blocks lie in all rows' places.

    Attributes:
      end: the place behind the row's last.
    """

    def __init__(self, length: int, numbers: Any, rule: Rule) -> None:
        self._row = pl.program_id(2)
        self._start = self._row * length
        self.end = self._start + length
        self._refs, self._rule = numbers, rule

    def first(self, block: Any) -> Any:
        """Place of a block's first."""
        return self._start + block * SIZE

    def read(self, ref: Any, block: Any, head: Any) -> Tiles:
        """A block of (R, H, d)."""
        return read_places(ref, self.first(block), SIZE, self.end, head)

    def read_numbers(self, ref: Any, block: Any, head: Any) -> jax.Array:
        """A block of (H, R)."""
        return read_numbers(ref, self.first(block), SIZE, self.end, head)

    def numbers(self, block: Any, expand: Callable[[jax.Array], jax.Array]) -> Places:
        """What the mask compares of a block."""
        places = pl.ds(block * SIZE, SIZE)
        found = (expand(self._refs[self._row, n, places]) for n in range(self._refs.shape[1]))
        return Places(**dict(zip(self._rule.numbers, found, strict=True)))


class _List:
    """The blocks that this program visits."""

    def __init__(self, order: Any, whole: Any, needed: Any) -> None:
        self._order, self._at = order, (pl.program_id(2), pl.program_id(0))
        self._whole, self._needed = whole[self._at], needed[self._at]

    def block(self, number: Any) -> Any:
        """The one that comes at `number`."""
        return self._order[(*self._at, number)]

    def each(self, loop: Callable[..., Any], sums: Any, hide: Callable[..., Any]) -> Any:
        """`loop(numbers, sums, hide)` over those seen whole, without a mask, and over the rest."""
        sums = loop((0, self._whole), sums, lambda number, scores: scores)
        return loop((self._whole, self._needed), sums, hide)


def _sides(row: Row, query_numbers: Any, key_numbers: Any) -> tuple[_Side, _Side]:
    queries = _Side(row.queries, query_numbers, row.rule)
    return queries, _Side(row.keys, key_numbers, row.rule)


def _down(x: jax.Array) -> jax.Array:
    return x[:, None]


def _across(x: jax.Array) -> jax.Array:
    return x[None, :]


def _hidden(rule: Rule, queries: Places, keys: Places, scores: jax.Array) -> jax.Array:
    return jnp.where(visible(rule, queries, keys), scores, FORBIDDEN)


def forward_kernel(
    order: Any,
    whole: Any,
    needed: Any,
    query_numbers: Any,
    key_numbers: Any,
    query: Any,
    key: Any,
    value: Any,
    out: Any,
    log_total: Any,
    *,
    row: Row,
) -> None:
    """A block of queries and a head: what it gets, and logarithms of totals."""
    block, head = pl.program_id(0), pl.program_id(1)
    own, theirs = _sides(row, query_numbers, key_numbers)
    visited = _List(order, whole, needed)
    queries, key_head = own.read(query, block, head), jax.lax.div(head, row.groups)
    numbers = own.numbers(block, _down)

    def read(number: Any) -> tuple[Tiles, ...]:
        return tuple(theirs.read(x, visited.block(number), key_head) for x in (key, value))

    def hide(number: Any, scores: jax.Array) -> jax.Array:
        others = theirs.numbers(visited.block(number), _across)
        return _hidden(row.rule, numbers, others, scores)

    def loop(span: Any, sums: Any, hide: Any) -> Any:
        return attend_blocks(span, sums, queries, read, hide, row.scale)

    sums = visited.each(loop, nothing_yet(SIZE, query.shape[-1]), hide)
    values, logs = attended(sums)
    write_places(out, own.first(block), own.end, head, values)
    write_numbers(log_total, own.first(block), own.end, head, logs)


def query_kernel(
    order: Any,
    whole: Any,
    needed: Any,
    query_numbers: Any,
    key_numbers: Any,
    query: Any,
    key: Any,
    value: Any,
    gradient: Any,
    log_total: Any,
    share: Any,
    of_query: Any,
    *,
    row: Row,
) -> None:
    """The gradient of a block of queries of a head."""
    block, head = pl.program_id(0), pl.program_id(1)
    own, theirs = _sides(row, query_numbers, key_numbers)
    visited = _List(order, whole, needed)
    queries, gradients = (own.read(x, block, head) for x in (query, gradient))
    logs, shares = (own.read_numbers(x, block, head) for x in (log_total, share))
    numbers = own.numbers(block, _down)
    key_head = jax.lax.div(head, row.groups)

    def read(number: Any) -> tuple[Tiles, ...]:
        return tuple(theirs.read(x, visited.block(number), key_head) for x in (key, value))

    def hide(number: Any, scores: jax.Array) -> jax.Array:
        others = theirs.numbers(visited.block(number), _across)
        return _hidden(row.rule, numbers, others, scores)

    def loop(span: Any, sums: Any, hide: Any) -> Any:
        return query_gradient(span, sums, queries, gradients, logs, shares, read, hide, row.scale)

    sums = visited.each(loop, zeros(SIZE, query.shape[-1]), hide)
    write_places(of_query, own.first(block), own.end, head, times(sums, row.scale))


def key_kernel(
    order: Any,
    whole: Any,
    needed: Any,
    query_numbers: Any,
    key_numbers: Any,
    query: Any,
    key: Any,
    value: Any,
    gradient: Any,
    log_total: Any,
    share: Any,
    of_key: Any,
    of_value: Any,
    *,
    row: Row,
) -> None:
    """The gradients of a block of keys and values, from all heads of queries that look at them."""
    block, key_head = pl.program_id(0), pl.program_id(1)
    theirs, own = _sides(row, query_numbers, key_numbers)
    visited = _List(order, whole, needed)
    keys, values = (own.read(x, block, key_head) for x in (key, value))
    numbers = own.numbers(block, _down)

    def hide(number: Any, scores: jax.Array) -> jax.Array:
        others = theirs.numbers(visited.block(number), _across)
        return _hidden(row.rule, others, numbers, scores)

    def of_head(served: Any, sums: Any) -> Any:
        head = key_head * row.groups + served

        def read(number: Any) -> tuple[Any, ...]:
            other = visited.block(number)
            places = (theirs.read(x, other, head) for x in (query, gradient))
            totals = (theirs.read_numbers(x, other, head) for x in (log_total, share))
            return *places, *totals

        def loop(span: Any, sums: Any, hide: Any) -> Any:
            return key_gradients(span, sums, keys, values, read, hide, row.scale)

        return visited.each(loop, sums, hide)

    width = query.shape[-1]
    sums = zeros(SIZE, width), zeros(SIZE, width)
    of_keys, of_values = jax.lax.fori_loop(0, row.groups, of_head, sums)
    write_places(of_key, own.first(block), own.end, key_head, times(of_keys, row.scale))
    write_places(of_value, own.first(block), own.end, key_head, of_values)
