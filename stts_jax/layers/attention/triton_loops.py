"""The loops of the GPU kernels over blocks of scores: flash attention, forward and backward.

Scores and their totals are logarithms to the base of 2: exp2 is one instruction of a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from stts_jax.layers.attention.masks import FORBIDDEN, NOWHERE
from stts_jax.layers.attention.triton_tiles import (
    Tiles,
    dot_products,
    plus,
    times,
    weighted,
    zeros,
)

LOG2_E = math.log2(math.e)
# Of the number of a block: hides scores (queries, keys) that don't count.
Hide = Callable[[Any, jax.Array], jax.Array]
# Of the number of a block: its places, and the like.
Read = Callable[[Any], Any]


def nothing_yet(count: int, width: int) -> tuple[jax.Array, jax.Array, Tiles]:
    """Largest score, total of weights and sum of values before the first block."""
    return jnp.full((count,), FORBIDDEN), jnp.zeros((count,)), zeros(count, width)


def attend_blocks(
    numbers: tuple[Any, Any],
    sums: tuple[jax.Array, jax.Array, Tiles],
    queries: Tiles,
    read: Read,
    hide: Hide,
    scale: float,
) -> tuple[jax.Array, jax.Array, Tiles]:
    """The sums after some more blocks of keys.

    Args:
      numbers: of the first block and of the one behind the last.
      sums: so far, at first `nothing_yet`.
      queries: of one block.
      read: keys and values of a block.
      hide: what isn't seen.
      scale: of the scores.
    """

    def of_block(number: Any, sums: Any) -> Any:
        largest, total, attended = sums
        keys, values = read(number)
        scores = hide(number, dot_products(queries, keys) * (scale * LOG2_E))
        now = jnp.maximum(largest, scores.max(1))
        weights, left = jnp.exp2(scores - now[:, None]), jnp.exp2(largest - now)
        attended = plus(times(attended, left[:, None]), weighted(weights, values))
        return now, total * left + weights.sum(1), attended

    return jax.lax.fori_loop(*numbers, of_block, sums)


def attended(sums: tuple[jax.Array, jax.Array, Tiles]) -> tuple[Tiles, jax.Array]:
    """What queries get, 0 where they see nothing, and the logarithms of their totals."""
    largest, total, values = sums
    sees = largest > NOWHERE
    total = jnp.where(sees, total, 1.0)
    return times(values, jnp.where(sees, 1.0 / total, 0.0)[:, None]), largest + jnp.log2(total)


def query_gradient(
    numbers: tuple[Any, Any],
    sums: Tiles,
    queries: Tiles,
    gradients: Tiles,
    log_total: jax.Array,
    share: jax.Array,
    read: Read,
    hide: Hide,
    scale: float,
) -> Tiles:
    """The sum after some more blocks of keys, still to be multiplied with the scale.

    Args:
      numbers, queries, read, hide, scale: as in `attend_blocks`.
      sums: so far.
      gradients: of what these queries got.
      log_total: (queries,) from `attended`.
      share: (queries,), sum of what they got times its gradient.
    """

    def of_block(number: Any, sums: Any) -> Any:
        keys, values = read(number)
        scores = hide(number, dot_products(queries, keys) * (scale * LOG2_E))
        weights = jnp.exp2(scores - log_total[:, None])
        of_scores = weights * (dot_products(gradients, values) - share[:, None])
        return plus(sums, weighted(of_scores, keys))

    return jax.lax.fori_loop(*numbers, of_block, sums)


def key_gradients(
    numbers: tuple[Any, Any],
    sums: tuple[Tiles, Tiles],
    keys: Tiles,
    values: Tiles,
    read: Read,
    hide: Hide,
    scale: float,
) -> tuple[Tiles, Tiles]:
    """The sums of keys (still to be multiplied with the scale) and values after some more blocks.

    Args:
      numbers: of the first block of queries and of the one behind the last.
      sums: so far.
      keys, values: of one block.
      read: queries, gradients, log_total and share of a block.
      hide: what isn't seen, of scores (keys, queries).
      scale: of the scores.
    """

    def of_block(number: Any, sums: Any) -> Any:
        of_keys, of_values = sums
        queries, gradients, log_total, share = read(number)
        scores = hide(number, dot_products(keys, queries) * (scale * LOG2_E))
        weights = jnp.exp2(scores - log_total[None, :])
        of_scores = weights * (dot_products(values, gradients) - share[None, :])
        of_keys = plus(of_keys, weighted(of_scores, queries))
        return of_keys, plus(of_values, weighted(weights, gradients))

    return jax.lax.fori_loop(*numbers, of_block, sums)
