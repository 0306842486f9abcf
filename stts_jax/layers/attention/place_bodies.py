"""What `place_kernel`'s three kernels do with one pair of blocks.

The first two arguments of each are the prefetched `BlockTables`; numbers of queries lie in a row
each, those of keys in a column each. Sums are kept in VMEM while the grid's last dimension runs.
The last block may be longer than what is left (`lengths`: of queries, of keys). What lies behind is
seen by nobody, but need not be a number, so it is replaced where it is multiplied.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from stts_jax.layers.attention.masks import FORBIDDEN, NOWHERE, Places, Rule, visible
from stts_jax.layers.attention.tiles import product


def _scores(
    query_numbers: Any, key_numbers: Any, query: Any, key: Any, rule: Rule, scale: float
) -> jax.Array:
    """(keys, queries) float32 of a block."""
    names = rule.numbers
    queries = Places(**{name: query_numbers[n : n + 1, :] for n, name in enumerate(names)})
    keys = Places(**{name: key_numbers[:, n : n + 1] for n, name in enumerate(names)})
    scores = product(key, query, (1, 1)) * scale
    return jnp.where(visible(rule, queries, keys), scores, FORBIDDEN)


def _weights(scores: jax.Array, log_total: jax.Array) -> jax.Array:
    """0 where a query sees nobody."""
    return jnp.where(log_total > NOWHERE, jnp.exp(scores - log_total), 0.0)


def _rows(x: Any, block: jax.Array, length: int) -> jax.Array:
    """A block's rows, zeros behind the array's end."""
    size = x.shape[0]
    if length % size == 0:
        return x[...]
    left = length - block * size
    inside = jax.lax.broadcasted_iota(jnp.int32, x.shape, 0) < left
    return jnp.where(inside, x[...].astype(jnp.float32), 0.0).astype(x.dtype)


def _place(dimension: int) -> jax.Array:
    return pl.program_id(dimension)


def forward_kernel(
    needed: Any,
    fetched: Any,
    query_numbers: Any,
    key_numbers: Any,
    query: Any,
    key: Any,
    value: Any,
    out: Any,
    log_total: Any,
    largest: Any,
    total: Any,
    attended: Any,
    *,
    rule: Rule,
    scale: float,
    lengths: tuple[int, int],
) -> None:
    row, block, number = _place(0), _place(2), _place(3)
    last = pl.num_programs(3) - 1

    @pl.when(number == 0)
    def _() -> None:
        largest[...] = jnp.full(largest.shape, FORBIDDEN)
        total[...] = jnp.zeros(total.shape)
        attended[...] = jnp.zeros(attended.shape)

    @pl.when(needed[row, block, number] == 1)
    def _() -> None:
        queries = _rows(query, block, lengths[0])
        scores = _scores(query_numbers, key_numbers, queries, key[...], rule, scale)
        now = jnp.maximum(largest[...], scores.max(0, keepdims=True))
        weights, left = jnp.exp(scores - now), jnp.exp(largest[...] - now)
        values = _rows(value, fetched[row, block, number], lengths[1])
        largest[...] = now
        total[...] = total[...] * left + weights.sum(0, keepdims=True)
        attended[...] = attended[...] * left + product(values, weights.astype(values.dtype), (0, 0))

    @pl.when(number == last)
    def _() -> None:
        sees = largest[...] > NOWHERE
        result = jnp.where(sees, attended[...] / jnp.where(sees, total[...], 1.0), 0.0)
        out[...] = result.T.astype(out.dtype)
        log_total[...] = largest[...] + jnp.log(jnp.where(sees, total[...], 1.0))


def query_kernel(
    needed: Any,
    fetched: Any,
    query_numbers: Any,
    key_numbers: Any,
    query: Any,
    key: Any,
    value: Any,
    gradient: Any,
    log_total: Any,
    share: Any,
    of_query: Any,
    sums: Any,
    *,
    rule: Rule,
    scale: float,
    lengths: tuple[int, int],
) -> None:
    row, block, number = _place(0), _place(2), _place(3)
    last = pl.num_programs(3) - 1

    @pl.when(number == 0)
    def _() -> None:
        sums[...] = jnp.zeros(sums.shape)

    @pl.when(needed[row, block, number] == 1)
    def _() -> None:
        keys = _rows(key, fetched[row, block, number], lengths[1])
        values = _rows(value, fetched[row, block, number], lengths[1])
        scores = _scores(query_numbers, key_numbers, query[...], keys, rule, scale)
        weights = _weights(scores, log_total[...])
        of_weights = product(values, _rows(gradient, block, lengths[0]), (1, 1))
        of_scores = weights * (of_weights - share[...]) * scale
        sums[...] += product(of_scores.astype(keys.dtype), keys, (0, 0))

    @pl.when(number == last)
    def _() -> None:
        of_query[...] = sums[...].astype(of_query.dtype)


def key_kernel(
    needed: Any,
    fetched: Any,
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
    key_sums: Any,
    value_sums: Any,
    *,
    rule: Rule,
    scale: float,
    lengths: tuple[int, int],
    blocks: int,
) -> None:
    row, block, number = _place(0), _place(2), _place(3)
    last = pl.num_programs(3) - 1

    @pl.when(number == 0)
    def _() -> None:
        key_sums[...] = jnp.zeros(key_sums.shape)
        value_sums[...] = jnp.zeros(value_sums.shape)

    @pl.when(needed[row, block, jax.lax.rem(number, blocks)] == 1)
    def _() -> None:
        own = fetched[row, block, jax.lax.rem(number, blocks)]
        queries, gradients = _rows(query, own, lengths[0]), _rows(gradient, own, lengths[0])
        scores = _scores(query_numbers, key_numbers, queries, key[...], rule, scale)
        weights = _weights(scores, log_total[...])
        value_sums[...] += product(weights.astype(gradients.dtype), gradients, (1, 0))
        of_weights = product(_rows(value, block, lengths[1]), gradients, (1, 1))
        of_scores = weights * (of_weights - share[...]) * scale
        key_sums[...] += product(of_scores.astype(queries.dtype), queries, (1, 0))

    @pl.when(number == last)
    def _() -> None:
        of_key[...] = key_sums[...].astype(of_key.dtype)
        of_value[...] = value_sums[...].astype(of_value.dtype)
