"""The computation of one block, forward and backward, in the GPU kernels of streams and masks.

Source: FlashAttention-2 (arXiv 2307.08691), algorithms 1 and 2.

Arrays in the GPU's memory: q, k, v, o, do, dq, dk and dv are (R, H, d), the rows of the whole batch
one after the other; lse and delta are (H, R) float32. Scores, lse and the like are in units of
log2(e), as exp2 is one instruction of a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from stts_jax.attention.gpu.tiles import (
    SIZE,
    dot_products,
    plus,
    read_row,
    read_tokens,
    times,
    weighted,
    write_row,
    write_tokens,
    zeros,
)
from stts_jax.attention.softmax import (
    initial_m_l,
    softmax_end,
    softmax_gradient,
    softmax_step,
)

LOG2_E = math.log2(math.e)
# From a visited block's number and scores (own tokens, visited tokens) to the masked scores.
MaskScores = Callable[[Any, jax.Array], jax.Array]


class Block(NamedTuple):
    """The block of queries or of keys that a program computes.

    Attributes:
      first: its first row.
      end: the row behind the last that may be read and written.
    """

    first: Any
    end: Any


class Visited(NamedTuple):
    """The blocks of the other side that a program visits, in order.

    Attributes:
      first: returns the first row of a block, given its number.
      end: the row behind the last that may be read.
      spans: numbers from one up to another, with the mask of these blocks' scores or None.
    """

    first: Callable[[Any], Any]
    end: Any
    spans: tuple[tuple[tuple[Any, Any], MaskScores | None], ...]

    def tokens(self, number: Any, head: Any, *refs: Any) -> tuple[Any, ...]:
        """Reads a block of each (R, H, d) array."""
        return tuple(read_tokens(ref, self.first(number), self.end, head) for ref in refs)

    def rows(self, number: Any, head: Any, *refs: Any) -> tuple[Any, ...]:
        """Reads a block of each (H, R) array."""
        return tuple(read_row(ref, self.first(number), self.end, head) for ref in refs)

    def sum(self, step: Callable[..., Any], sums: Any) -> Any:
        """Returns the sums after `step(number, sums, mask)` of every block."""
        for span, mask in self.spans:

            def of_block(number: Any, sums: Any, mask: MaskScores | None = mask) -> Any:
                return step(number, sums, mask)

            sums = jax.lax.fori_loop(*span, of_block, sums)
        return sums


def _scores(
    own: Any, visited: Any, number: Any, mask: MaskScores | None, scale: float
) -> jax.Array:
    s = dot_products(own, visited) * (scale * LOG2_E)
    return s if mask is None else mask(number, s)


def forward_block(
    refs: tuple[Any, ...],
    block: Block,
    keys: Visited,
    head: Any,
    key_head: Any,
    scale: float,
) -> None:
    """Computes o and lse of a block of queries, 0 where they see no key.

    Args:
      refs: q, k, v, and o and lse to be written.
      block: of queries.
      keys: blocks to visit.
      head, key_head: of queries and of keys.
      scale: of the scores.
    """
    q, k, v, o, lse = refs
    queries = read_tokens(q, *block, head)

    def step(number: Any, sums: Any, mask: MaskScores | None) -> Any:
        m, l, acc = sums
        own_keys, values = keys.tokens(number, key_head, k, v)
        s = _scores(queries, own_keys, number, mask, scale)
        p, alpha, m, l = softmax_step(s, m, l, axis=1, exp=jnp.exp2)
        return m, l, plus(times(acc, alpha[:, None]), weighted(p, values))

    m, l, acc = keys.sum(step, (*initial_m_l((SIZE,)), zeros(q.shape[-1])))
    sees, l, own_lse = softmax_end(m, l, log=jnp.log2)
    write_tokens(o, *block, head, times(acc, jnp.where(sees, 1.0 / l, 0.0)[:, None]))
    write_row(lse, *block, head, own_lse)


def dq_block(
    refs: tuple[Any, ...],
    block: Block,
    keys: Visited,
    head: Any,
    key_head: Any,
    scale: float,
) -> None:
    """Computes dq of a block of queries.

    Args:
      refs: q, k, v, do, lse, delta, and dq to be written.
      block, keys, head, key_head, scale: see `forward_block`.
    """
    q, k, v, do, lse, delta, dq = refs
    queries, gradients = (read_tokens(x, *block, head) for x in (q, do))
    own_lse, own_delta = (read_row(x, *block, head) for x in (lse, delta))

    def step(number: Any, dq_sum: Any, mask: MaskScores | None) -> Any:
        own_keys, values = keys.tokens(number, key_head, k, v)
        s = _scores(queries, own_keys, number, mask, scale)
        p = jnp.exp2(s - own_lse[:, None])
        ds = softmax_gradient(p, dot_products(gradients, values), own_delta[:, None])
        return plus(dq_sum, weighted(ds, own_keys))

    dq_sum = keys.sum(step, zeros(q.shape[-1]))
    write_tokens(dq, *block, head, times(dq_sum, scale))


def dkv_block(
    refs: tuple[Any, ...],
    block: Block,
    queries: Visited,
    key_head: Any,
    groups: int,
    scale: float,
) -> None:
    """Computes dk and dv of a block of keys, from all heads of queries that it serves.

    Args:
      refs: q, k, v, do, lse, delta, and dk and dv to be written.
      block: of keys.
      queries: blocks to visit.
      key_head: of the keys.
      groups: heads of queries for each of keys.
      scale: of the scores.
    """
    q, k, v, do, lse, delta, dk, dv = refs
    own_keys, values = (read_tokens(x, *block, key_head) for x in (k, v))

    def of_head(served: Any, sums: Any) -> Any:
        head = key_head * groups + served

        def step(number: Any, sums: Any, mask: MaskScores | None) -> Any:
            dk_sum, dv_sum = sums
            own_queries, gradients = queries.tokens(number, head, q, do)
            own_lse, own_delta = queries.rows(number, head, lse, delta)
            s = _scores(own_keys, own_queries, number, mask, scale)
            p = jnp.exp2(s - own_lse[None, :])
            ds = softmax_gradient(p, dot_products(values, gradients), own_delta[None, :])
            dk_sum = plus(dk_sum, weighted(ds, own_queries))
            return dk_sum, plus(dv_sum, weighted(p, gradients))

        return queries.sum(step, sums)

    sums = zeros(q.shape[-1]), zeros(q.shape[-1])
    sums = of_head(0, sums) if groups == 1 else jax.lax.fori_loop(0, groups, of_head, sums)
    dk_sum, dv_sum = sums
    write_tokens(dk, *block, key_head, times(dk_sum, scale))
    write_tokens(dv, *block, key_head, dv_sum)
