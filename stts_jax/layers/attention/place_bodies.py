"""What `place_kernel`'s three kernels do with one pair of blocks.

The first two arguments of each are the prefetched `BlockTables`; numbers of queries lie in a row
each, those of keys in a column each. Sums are kept in VMEM while the grid's last dimension runs.
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
    queries = Places(**{name: query_numbers[0, n : n + 1, :] for n, name in enumerate(names)})
    keys = Places(**{name: key_numbers[0, :, n : n + 1] for n, name in enumerate(names)})
    scores = product(key[0, 0], query[0, 0], (1, 1)) * scale
    return jnp.where(visible(rule, queries, keys), scores, FORBIDDEN)


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
        scores = _scores(query_numbers, key_numbers, query, key, rule, scale)
        now = jnp.maximum(largest[...], scores.max(0, keepdims=True))
        weights, left = jnp.exp(scores - now), jnp.exp(largest[...] - now)
        values = value[0, 0]
        largest[...] = now
        total[...] = total[...] * left + weights.sum(0, keepdims=True)
        attended[...] = attended[...] * left + product(values, weights.astype(values.dtype), (0, 0))

    @pl.when(number == last)
    def _() -> None:
        sees = largest[...] > NOWHERE
        result = jnp.where(sees, attended[...] / jnp.where(sees, total[...], 1.0), 0.0)
        out[0, 0] = result.T.astype(out.dtype)
        log_total[0, 0] = largest[...] + jnp.log(jnp.where(sees, total[...], 1.0))


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
) -> None:
    row, block, number = _place(0), _place(2), _place(3)
    last = pl.num_programs(3) - 1

    @pl.when(number == 0)
    def _() -> None:
        sums[...] = jnp.zeros(sums.shape)

    @pl.when(needed[row, block, number] == 1)
    def _() -> None:
        scores = _scores(query_numbers, key_numbers, query, key, rule, scale)
        weights = jnp.exp(scores - log_total[0, 0])
        of_weights = product(value[0, 0], gradient[0, 0], (1, 1))
        of_scores = weights * (of_weights - share[0, 0]) * scale
        keys = key[0, 0]
        sums[...] += product(of_scores.astype(keys.dtype), keys, (0, 0))

    @pl.when(number == last)
    def _() -> None:
        of_query[0, 0] = sums[...].astype(of_query.dtype)


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
        queries, gradients = query[0, 0], gradient[0, 0]
        scores = _scores(query_numbers, key_numbers, query, key, rule, scale)
        weights = jnp.exp(scores - log_total[0, 0])
        value_sums[...] += product(weights.astype(gradients.dtype), gradients, (1, 0))
        of_weights = product(value[0, 0], gradients, (1, 1))
        of_scores = weights * (of_weights - share[0, 0]) * scale
        key_sums[...] += product(of_scores.astype(queries.dtype), queries, (1, 0))

    @pl.when(number == last)
    def _() -> None:
        of_key[0, 0] = key_sums[...].astype(of_key.dtype)
        of_value[0, 0] = value_sums[...].astype(of_value.dtype)
