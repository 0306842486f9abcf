"""The softmax recurrence of FlashAttention, which the kernels of all platforms share.

In the letters of the paper (Dao et al., arXiv 2205.14135 and 2307.08691): q, k, v and o; s are
scores, m the largest so far, l the sum of exp(s - m), acc the sum of exp(s - m) v, and
lse = m + log(l). In the backward pass p = exp(s - lse), dp = do v, delta = sum(o do), ds =
p (dp - delta). A kernel chooses the layout: scores are (queries, keys) or (keys, queries), and
`axis` is the keys' axis; m and l may lack it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from stts_jax.attention.masks import FULLY_MASKED, MASK_VALUE

Exp = Callable[[jax.Array], jax.Array]


def attention_vjp(
    forward: Callable[..., tuple[jax.Array, Any]],
    backward: Callable[..., tuple[Any, ...]],
    nondiff_argnums: tuple[int, ...] = (),
) -> Callable[..., jax.Array]:
    """Returns a function that computes `forward`'s output, with `backward` as its gradient.

    Args:
      forward: returns the output and the residuals for `backward`.
      backward: of the static arguments, the residuals and the output's gradient.
      nondiff_argnums: which of the arguments are static.
    """

    def attend(*args: Any) -> jax.Array:
        return forward(*args)[0]

    differentiable = jax.custom_vjp(attend, nondiff_argnums=nondiff_argnums)
    differentiable.defvjp(forward, backward)
    return differentiable


def dot(x: jax.Array, y: jax.Array, over: tuple[int, int]) -> jax.Array:
    """Returns the float32 product of two matrices inside a kernel.

    Args:
      x, y: two matrices.
      over: the dimension of x and the dimension of y that are summed over.
    """
    dimensions = (((over[0],), (over[1],)), ((), ()))
    # Products of 16-bit numbers are exact in float32; Mosaic refuses a higher precision for them.
    precision = jax.lax.Precision.DEFAULT if x.dtype.itemsize < 4 else None
    return jax.lax.dot_general(
        x, y, dimensions, precision=precision, preferred_element_type=jnp.float32
    )


def initial_m_l(shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Returns m and l before the first block of keys."""
    return jnp.full(shape, MASK_VALUE), jnp.zeros(shape)


def softmax_step(
    s: jax.Array, m: jax.Array, l: jax.Array, *, axis: int, exp: Exp = jnp.exp
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Adds a block of keys to m and l.

    Args:
      s: scores of the block.
      m, l: so far.
      axis: the keys' axis of s.
      exp: `jnp.exp`, or `jnp.exp2` if s is in units of log2(e).

    Returns:
      p: exp(s - m) with the new m.
      alpha: the factor for acc, to which p v is then added; of the shape of m.
      m, l: with this block.
    """
    has_axis = m.ndim == s.ndim
    m_next = jnp.maximum(m, s.max(axis, keepdims=has_axis))
    p = exp(s - (m_next if has_axis else jnp.expand_dims(m_next, axis)))
    alpha = exp(m - m_next)
    return p, alpha, m_next, l * alpha + p.sum(axis, keepdims=has_axis)


def softmax_end(
    m: jax.Array, l: jax.Array, *, log: Exp = jnp.log
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Ends the recurrence after the last block of keys.

    Args:
      m, l: of all keys.
      log: the inverse of `softmax_step`'s `exp`.

    Returns:
      sees: bool, False for queries that see no key, whose output is 0.
      l: the divisor of acc, 1 for queries that see no key.
      lse: m + log(l).
    """
    sees = m > FULLY_MASKED
    l = jnp.where(sees, l, 1.0)
    return sees, l, m + log(l)


def softmax_gradient(p: jax.Array, dp: jax.Array, delta: jax.Array) -> jax.Array:
    """Returns ds, the gradient of the scores, from p, dp and delta that broadcast."""
    return p * (dp - delta)


def softmax_delta(o: jax.Array, do: jax.Array) -> jax.Array:
    """Returns delta, (...,) float32, of outputs (..., d) and their gradients."""
    return (o.astype(jnp.float32) * do.astype(jnp.float32)).sum(-1)


def with_bias_columns(
    query: jax.Array, key: jax.Array, key_bias: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """Returns scaled queries and keys with the key's bias in additional columns of the head.

    softmax(q k / sqrt(d) + b) is softmax([q / sqrt(d), 1] [k, b]), so that any kernel computes it
    and its gradient. In 16-bit types the bias takes two columns, its rounded value and the rest.
    An infinite bias has no rest, so it is clipped to a value that hides the key all the same.

    Args:
      query: (..., Lq, H, d).
      key: (..., Lk, K, d).
      key_bias: (..., Lk), infinite at keys that no query sees, or None.
    """
    query = query * query.shape[-1] ** -0.5
    if key_bias is None:
        return query, key
    most = min(-MASK_VALUE, float(jnp.finfo(key.dtype).max))
    bias = jnp.broadcast_to(key_bias, key.shape[:-2]).astype(jnp.float32).clip(-most, most)
    columns = [bias.astype(key.dtype)]
    if key.dtype != jnp.float32:
        columns.append((bias - columns[0].astype(jnp.float32)).astype(key.dtype))
    more = jnp.stack(columns, axis=-1)[..., None, :]
    more = jnp.broadcast_to(more, (*key.shape[:-1], len(columns)))
    ones = jnp.ones((*query.shape[:-1], len(columns)), query.dtype)
    return jnp.concatenate([query, ones], -1), jnp.concatenate([key, more], -1)
