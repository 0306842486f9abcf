"""Attention with all scores at once: of a block, of which the XLA backends are made, or of all."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from stts_jax.attention.masks import FULLY_MASKED, MASK_VALUE
from stts_jax.attention.softmax import softmax_delta, softmax_gradient


def block_forward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    bias: jax.Array | None,
    mask: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    """Computes attention of a block of queries to all the keys that they may see.

    All arrays may have the same batch dims, such as rows and heads.

    Args:
      q: (..., m, d).
      k, v: (..., n, d).
      bias: broadcastable to (..., m, n), float32.
      mask: broadcastable to (..., m, n), True where the query sees the key.

    Returns:
      o: (..., m, d) in the dtype of v, 0 for a query that sees no key.
      lse: (..., m) float32.
    """
    batch = q.shape[:-2]
    if batch and math.prod(batch) == 1:
        o, lse = block_forward(*_matrices(q, k, v, bias, mask))
        return o.reshape(*batch, *o.shape), lse.reshape(*batch, *lse.shape)
    q, rest = _scaled(q)
    s = jnp.matmul(q, _transposed(k), preferred_element_type=jnp.float32)
    s = _biased_and_masked(s, rest, bias, mask)
    m = s.max(-1)
    p = jnp.exp(s - m[..., None])
    l = p.sum(-1)
    # Divided after the product: a pass over (m, d) is cheaper than one over (m, n).
    acc = jnp.matmul(p.astype(v.dtype), v, preferred_element_type=jnp.float32)
    o = acc / l[..., None]
    if mask is not None:
        o = jnp.where(m[..., None] > FULLY_MASKED, o, 0)
    return o.astype(v.dtype), m + jnp.log(l)


def block_backward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    bias: jax.Array | None,
    mask: jax.Array | None,
    o: jax.Array,
    lse: jax.Array,
    do: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Computes the gradients of `block_forward` from its results and the gradient of o.

    Scores are (keys, queries) here, so that three of the five products read their operands in
    memory order.

    Returns:
      dq (..., m, d), dk and dv (..., n, d), and the gradient of the bias summed over the queries,
      (..., n); all float32.
    """
    batch = q.shape[:-2]
    if batch and math.prod(batch) == 1:
        o, do = (x.reshape(x.shape[-2:]) for x in (o, do))
        results = block_backward(*_matrices(q, k, v, bias, mask), o, lse.reshape(-1), do)
        dq, dk, dv, dbias = (x.reshape(*batch, *x.shape) for x in results)
        return dq, dk, dv, dbias
    scale = q.shape[-1] ** -0.5
    q, rest = _scaled(q)
    do = do.astype(jnp.float32)
    if mask is not None:
        do = jnp.where(lse[..., None] > FULLY_MASKED, do, 0)
        mask = _transposed(mask)
    bias = None if bias is None else _transposed(bias)
    delta = softmax_delta(o, do)[..., None, :]
    do = do.astype(v.dtype)
    s = jnp.matmul(k, _transposed(q), preferred_element_type=jnp.float32)
    s = _biased_and_masked(s, rest, bias, mask)
    p = jnp.exp(s - lse[..., None, :])
    dv = jnp.matmul(p.astype(v.dtype), do, preferred_element_type=jnp.float32)
    dp = jnp.matmul(v, _transposed(do), preferred_element_type=jnp.float32)
    ds = softmax_gradient(p, dp, delta)
    dbias = ds.sum(-1)
    ds = ds.astype(q.dtype)
    dk = jnp.matmul(ds, q, preferred_element_type=jnp.float32)
    dq = jnp.matmul(_transposed(ds), k, preferred_element_type=jnp.float32)
    dk = dk if rest is None else dk * rest
    return dq * scale, dk, dv, dbias


def dense_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    mask: jax.Array | None = None,
    key_bias: jax.Array | None = None,
) -> jax.Array:
    """Computes `attention` with all scores at once; the backward pass recomputes them."""
    out: jax.Array = jax.checkpoint(_dense)(query, key, value, mask, key_bias)
    return out


def _dense(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array | None,
    key_bias: jax.Array | None,
) -> jax.Array:
    heads, width = key.shape[-2], query.shape[-1]
    batch, length = query.shape[:-3], query.shape[-3]
    # Query heads that share a key head are side by side, so that one product serves them all.
    q = query.reshape(*batch, length, heads, -1, width)
    q = jnp.moveaxis(q, -4, -2).reshape(*batch, heads, -1, width)
    k, v = jnp.moveaxis(key, -3, -2), jnp.moveaxis(value, -3, -2)
    s = jnp.matmul(q, jnp.swapaxes(k, -1, -2), preferred_element_type=jnp.float32)
    s = s.reshape(*batch, heads, -1, length, key.shape[-3]) * width**-0.5
    if key_bias is not None:
        s = s + key_bias[..., None, None, None, :].astype(jnp.float32)
    if mask is not None:
        s = jnp.where(mask[..., None, None, :, :], s, MASK_VALUE)
    p = jnp.exp(s - jax.lax.stop_gradient(s.max(-1, keepdims=True)))
    # Divided after the product: a pass over (Lq, d) is cheaper than one over (Lq, Lk).
    l = p.sum(-1)[..., None]
    p = p.astype(value.dtype).reshape(*batch, heads, -1, key.shape[-3])
    acc = jnp.matmul(p, v).reshape(*batch, heads, -1, length, width)
    o = jnp.moveaxis((acc / l).astype(value.dtype), -2, -4).reshape(query.shape)
    if mask is None:
        return o
    return jnp.where(mask.any(-1)[..., None, None], o, 0)


def _scaled(q: jax.Array) -> tuple[jax.Array, float | None]:
    """Returns queries times the softmax's scale, or as they are with the factor for the scores.

    A pass over the queries is cheaper than one over the scores, but would round bfloat16.
    """
    scale = q.shape[-1] ** -0.5
    return (q * scale, None) if q.dtype == jnp.float32 else (q, scale)


def _biased_and_masked(
    s: jax.Array, scale: float | None, bias: jax.Array | None, mask: jax.Array | None
) -> jax.Array:
    if scale is not None:
        s = s * scale
    if bias is not None:
        s = s + bias
    return s if mask is None else jnp.where(mask, s, MASK_VALUE)


def _matrices(
    q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array | None, mask: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None, jax.Array | None]:
    """Returns arrays without batch dims of 1: with any, XLA copies transposed operands on a CPU."""

    def matrix(x: jax.Array) -> jax.Array:
        return x.reshape(x.shape[-2:])

    bias, mask = (None if x is None else matrix(x) for x in (bias, mask))
    return matrix(q), matrix(k), matrix(v), bias, mask


def _transposed(x: jax.Array) -> jax.Array:
    return jnp.swapaxes(x, -1, -2)
