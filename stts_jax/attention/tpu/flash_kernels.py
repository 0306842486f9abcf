"""The kernels of `flash.py`: what one program does with one pair of blocks.

Shapes in VMEM, with n ids compared by the mask, blocks of `size` tokens and heads of width d:

    needed, fetched   (B, blocks, blocks of the other side) int32, prefetched, see `BlockTables`
    q_ids, k_ids      (n, size), (size, n) int32
    q, k, v, o, do    (size, d); also dq, dk, dv
    lse, delta        (1, size) float32, of queries
    m, l, acc         (1, size), (1, size), (d, size) float32 scratch

Scores are (keys, queries). The grid's last dimension runs over the blocks of the other side, while
sums stay in VMEM. The last block may be longer than what is left (`lengths`: Lq and Lk). No query
sees what is behind the end, but it may be NaN, so it is replaced by 0 where it is multiplied.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from stts_jax.attention.masks import FULLY_MASKED, MASK_VALUE, MaskSpec
from stts_jax.attention.softmax import (
    dot,
    initial_m_l,
    softmax_end,
    softmax_gradient,
    softmax_step,
)


def forward_kernel(*refs: Any, spec: MaskSpec, scale: float, lengths: tuple[int, int]) -> None:
    """Computes o and lse of a block of queries.

    Grid: (B, heads, blocks of queries, blocks of keys).
    """
    needed, fetched, q_ids, k_ids, q, k, v, o, lse, m, l, acc = refs
    row, block, step = pl.program_id(0), pl.program_id(2), pl.program_id(3)

    @pl.when(step == 0)
    def _() -> None:
        m[...], l[...] = initial_m_l(m.shape)
        acc[...] = jnp.zeros(acc.shape)

    @pl.when(needed[row, block, step] == 1)
    def _() -> None:
        s = _scores(q_ids, k_ids, _tokens(q, block, lengths[0]), k[...], spec, scale)
        p, alpha, m_next, l_next = softmax_step(s, m[...], l[...], axis=0)
        values = _tokens(v, fetched[row, block, step], lengths[1])
        m[...], l[...] = m_next, l_next
        acc[...] = acc[...] * alpha + dot(values, p.astype(values.dtype), (0, 0))

    @pl.when(step == pl.num_programs(3) - 1)
    def _() -> None:
        sees, total, lse[...] = softmax_end(m[...], l[...])
        o[...] = jnp.where(sees, acc[...] / total, 0.0).T.astype(o.dtype)


def dq_kernel(*refs: Any, spec: MaskSpec, scale: float, lengths: tuple[int, int]) -> None:
    """Computes dq of a block of queries; `dq_sum` is (size, d) float32 scratch.

    Grid: (B, heads, blocks of queries, blocks of keys).
    """
    needed, fetched, q_ids, k_ids, q, k, v, do, lse, delta, dq, dq_sum = refs
    row, block, step = pl.program_id(0), pl.program_id(2), pl.program_id(3)

    @pl.when(step == 0)
    def _() -> None:
        dq_sum[...] = jnp.zeros(dq_sum.shape)

    @pl.when(needed[row, block, step] == 1)
    def _() -> None:
        keys, values = (_tokens(x, fetched[row, block, step], lengths[1]) for x in (k, v))
        p = _weights(_scores(q_ids, k_ids, q[...], keys, spec, scale), lse[...])
        dp = dot(values, _tokens(do, block, lengths[0]), (1, 1))
        ds = softmax_gradient(p, dp, delta[...]) * scale
        dq_sum[...] += dot(ds.astype(keys.dtype), keys, (0, 0))

    @pl.when(step == pl.num_programs(3) - 1)
    def _() -> None:
        dq[...] = dq_sum[...].astype(dq.dtype)


def dkv_kernel(
    *refs: Any, spec: MaskSpec, scale: float, lengths: tuple[int, int], blocks: int
) -> None:
    """Computes dk and dv of a block of keys; the sums are (size, d) float32 scratch.

    Grid: (B, key heads, blocks of keys, query heads of a key head x `blocks` of queries).
    """
    needed, fetched, q_ids, k_ids, q, k, v, do, lse, delta, dk, dv, dk_sum, dv_sum = refs
    row, block, step = pl.program_id(0), pl.program_id(2), pl.program_id(3)
    query_block = jax.lax.rem(step, blocks)

    @pl.when(step == 0)
    def _() -> None:
        dk_sum[...] = jnp.zeros(dk_sum.shape)
        dv_sum[...] = jnp.zeros(dv_sum.shape)

    @pl.when(needed[row, block, query_block] == 1)
    def _() -> None:
        queries, gradients = (
            _tokens(x, fetched[row, block, query_block], lengths[0]) for x in (q, do)
        )
        p = _weights(_scores(q_ids, k_ids, queries, k[...], spec, scale), lse[...])
        dv_sum[...] += dot(p.astype(gradients.dtype), gradients, (1, 0))
        dp = dot(_tokens(v, block, lengths[1]), gradients, (1, 1))
        ds = softmax_gradient(p, dp, delta[...]) * scale
        dk_sum[...] += dot(ds.astype(queries.dtype), queries, (1, 0))

    @pl.when(step == pl.num_programs(3) - 1)
    def _() -> None:
        dk[...] = dk_sum[...].astype(dk.dtype)
        dv[...] = dv_sum[...].astype(dv.dtype)


def _scores(
    q_ids: Any, k_ids: Any, q: jax.Array, k: jax.Array, spec: MaskSpec, scale: float
) -> jax.Array:
    """Returns (keys, queries) float32 masked scores of a pair of blocks."""
    count = len(spec.fields)
    queries = spec.ids(q_ids[n : n + 1, :] for n in range(count))
    keys = spec.ids(k_ids[:, n : n + 1] for n in range(count))
    return jnp.where(spec.holds(queries, keys), dot(k, q, (1, 1)) * scale, MASK_VALUE)


def _weights(s: jax.Array, lse: jax.Array) -> jax.Array:
    """Returns p; 0 for queries that see no key."""
    return jnp.where(lse > FULLY_MASKED, jnp.exp(s - lse), 0.0)


def _tokens(x: Any, block: jax.Array, length: int) -> jax.Array:
    """Returns a block with zeros behind the end of the array's `length` tokens."""
    size = x.shape[0]
    if length % size == 0:
        whole: jax.Array = x[...]
        return whole
    inside = jax.lax.broadcasted_iota(jnp.int32, x.shape, 0) < length - block * size
    return jnp.where(inside, x[...].astype(jnp.float32), 0.0).astype(x.dtype)
