"""Attention in its plainest form, in float32, and the distance of a kernel's result from it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

_HIDDEN = -1e30


def plain_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array | None = None,
    key_bias: jax.Array | None = None,
) -> jax.Array:
    """Computes attention in float32, all scores of one head at once.

    Written apart from `stts_jax.attention`, whose XLA form is among what is checked.

    Args:
      query: (..., Lq, H, d).
      key: (..., Lk, K, d).
      value: (..., Lk, K, d).
      mask: (..., Lq or 1, Lk) bool, True where the query sees the key.
      key_bias: (..., Lk).

    Returns:
      (..., Lq, H, d) float32; 0 for a query that sees no key.
    """
    q, k, v = (jnp.moveaxis(x.astype(jnp.float32), -2, 0) for x in (query, key, value))
    groups = q.shape[0] // k.shape[0]

    # Recomputed in the backward pass, so that the scores of one head exist at a time.
    @jax.checkpoint
    def of_head(number: jax.Array, q: jax.Array) -> jax.Array:
        keys, values = k[number // groups], v[number // groups]
        s = _product("...qd,...kd->...qk", q, keys) * query.shape[-1] ** -0.5
        if key_bias is not None:
            s = s + key_bias.astype(jnp.float32)[..., None, :]
        if mask is None:
            return _product("...qk,...kd->...qd", jax.nn.softmax(s), values)
        p = jnp.where(mask, jax.nn.softmax(jnp.where(mask, s, _HIDDEN)), 0.0)
        return _product("...qk,...kd->...qd", p, values)

    out = jax.lax.map(lambda pair: of_head(*pair), (jnp.arange(q.shape[0]), q))
    return jnp.moveaxis(out, 0, -2)


# Exact products: by default a GPU takes TF32 for float32, and a TPU bfloat16.
_product = partial(
    jnp.einsum, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32
)


@dataclass(frozen=True)
class Distance:
    """How far an array is from the reference.

    Attributes:
      largest: the largest difference, over the largest value of the reference.
      row: the largest length of a difference over its last axis, a head of a token, over the
        length of the reference there, or the root mean square of all lengths if that is more. A
        single key too many or too few shows here.
    """

    largest: float
    row: float


@jax.jit
def _distance(ours: jax.Array, theirs: jax.Array) -> tuple[jax.Array, jax.Array]:
    theirs = theirs.astype(jnp.float32)
    difference = jnp.abs(ours.astype(jnp.float32) - theirs)
    # A largest value may pass over NaN; infinity it doesn't.
    difference = jnp.where(jnp.isfinite(difference), difference, jnp.inf)
    scale = jnp.maximum(jnp.abs(theirs).max(), 1e-30)
    lengths = jnp.sqrt((theirs**2).sum(-1))
    usual = jnp.maximum(jnp.sqrt((lengths**2).mean()), 1e-30)
    rows = jnp.sqrt((difference**2).sum(-1)) / jnp.maximum(lengths, usual)
    return difference.max() / scale, rows.max()


def distance(ours: jax.Array, theirs: jax.Array) -> Distance:
    """Returns how far `ours` is from `theirs`, of the same shape; infinitely where it's NaN."""
    largest, row = _distance(ours, theirs)
    return Distance(float(largest), float(row))
