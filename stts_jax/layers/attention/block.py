"""One block of scores, forward and backward: what every XLA form of attention is made of.

All arrays may have the same leading dimensions, such as rows and heads.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from stts_jax.layers.attention.masks import FORBIDDEN, NOWHERE


def block_forward(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    bias: jax.Array | None,
    mask: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    """Attention of a block of queries to all the keys that they may see.

    Args:
      query: (..., m, d).
      key, value: (..., n, d).
      bias: broadcastable to (..., m, n), float32.
      mask: broadcastable to (..., m, n), True where the query may look.

    Returns:
      (..., m, d) in the dtype of `value`, 0 for a query that may look nowhere, and the float32
      logarithm of each softmax's denominator, (..., m).
    """
    lead = query.shape[:-2]
    if lead and math.prod(lead) == 1:
        arrays = (_matrix(x) for x in (query, key, value, bias, mask))
        return jax.tree.map(lambda x: x.reshape(*lead, *x.shape), block_forward(*arrays))
    query, rest = _scaled(query)
    scores = jnp.matmul(query, _transposed(key), preferred_element_type=jnp.float32)
    scores = _limited(scores, rest, bias, mask)
    largest = scores.max(-1)
    weights = jnp.exp(scores - largest[..., None])
    total = weights.sum(-1)
    # Divided after the product: a pass over (m, d) is cheaper than one over (m, n).
    out = (
        jnp.matmul(weights.astype(value.dtype), value, preferred_element_type=jnp.float32)
        / total[..., None]
    )
    if mask is not None:
        out = jnp.where(largest[..., None] > NOWHERE, out, 0)
    return out.astype(value.dtype), largest + jnp.log(total)


def block_backward(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    bias: jax.Array | None,
    mask: jax.Array | None,
    out: jax.Array,
    log_total: jax.Array,
    gradient: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Gradients of `block_forward`, from its results and the gradient of the first of them.

    Keys go down and queries across, so that three of the five products read their operands in
    the order in which they lie.

    Returns:
      gradients of query (..., m, d), key and value (..., n, d), and of the scores' bias summed
      over the queries, (..., n); all float32.
    """
    lead = query.shape[:-2]
    if lead and math.prod(lead) == 1:
        arrays = (_matrix(x) for x in (query, key, value, bias, mask, out))
        results = block_backward(*arrays, log_total.reshape(-1), _matrix(gradient))
        return jax.tree.map(lambda x: x.reshape(*lead, *x.shape), results)
    scale = query.shape[-1] ** -0.5
    query, rest = _scaled(query)
    gradient = gradient.astype(jnp.float32)
    if mask is not None:
        gradient = jnp.where(log_total[..., None] > NOWHERE, gradient, 0)
        mask = _transposed(mask)
    bias = None if bias is None else _transposed(bias)
    share = (gradient * out.astype(jnp.float32)).sum(-1)[..., None, :]
    gradient = gradient.astype(value.dtype)
    scores = jnp.matmul(key, _transposed(query), preferred_element_type=jnp.float32)
    scores = _limited(scores, rest, bias, mask)
    weights = jnp.exp(scores - log_total[..., None, :])
    of_value = jnp.matmul(weights.astype(value.dtype), gradient, preferred_element_type=jnp.float32)
    of_weights = jnp.matmul(value, _transposed(gradient), preferred_element_type=jnp.float32)
    of_scores = weights * (of_weights - share)
    of_bias = of_scores.sum(-1)
    of_scores = of_scores.astype(query.dtype)
    of_key = jnp.matmul(of_scores, query, preferred_element_type=jnp.float32)
    of_query = jnp.matmul(_transposed(of_scores), key, preferred_element_type=jnp.float32)
    of_key = of_key if rest is None else of_key * rest
    return of_query * scale, of_key, of_value, of_bias


def _scaled(query: jax.Array) -> tuple[jax.Array, float | None]:
    """Queries with the softmax's scale in them, or as they are, and what is left to multiply by.

    A pass over the queries is cheaper than one over the scores, but would round bfloat16.
    """
    scale = query.shape[-1] ** -0.5
    return (query * scale, None) if query.dtype == jnp.float32 else (query, scale)


def _limited(
    scores: jax.Array, scale: float | None, bias: jax.Array | None, mask: jax.Array | None
) -> jax.Array:
    if scale is not None:
        scores = scores * scale
    if bias is not None:
        scores = scores + bias
    return scores if mask is None else jnp.where(mask, scores, FORBIDDEN)


def _matrix(x: jax.Array | None) -> jax.Array | None:
    """Without its leading dimensions, all 1: on a CPU, XLA copies transposed operands with any."""
    return None if x is None else x.reshape(x.shape[-2:])


def _transposed(x: jax.Array) -> jax.Array:
    return jnp.swapaxes(x, -1, -2)
