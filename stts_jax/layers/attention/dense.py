"""Attention as one product: the plainest form, for few scores."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from stts_jax.layers.attention.masks import FORBIDDEN


def dense_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    mask: jax.Array | None = None,
    key_bias: jax.Array | None = None,
) -> jax.Array:
    """As `attention`, with all scores at a time; they are made again in the backward pass."""
    return jax.checkpoint(_attend)(query, key, value, mask, key_bias)


def _attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array | None,
    key_bias: jax.Array | None,
) -> jax.Array:
    heads, width = key.shape[-2], query.shape[-1]
    lead, length = query.shape[:-3], query.shape[-3]
    # Query heads that share a key head lie side by side, so that one product serves them all.
    grouped = query.reshape(*lead, length, heads, -1, width)
    grouped = jnp.moveaxis(grouped, -4, -2).reshape(*lead, heads, -1, width)
    keys, values = jnp.moveaxis(key, -3, -2), jnp.moveaxis(value, -3, -2)
    scores = jnp.matmul(grouped, jnp.swapaxes(keys, -1, -2), preferred_element_type=jnp.float32)
    scores = scores.reshape(*lead, heads, -1, length, key.shape[-3]) * width**-0.5
    if key_bias is not None:
        scores = scores + key_bias[..., None, None, None, :].astype(jnp.float32)
    if mask is not None:
        scores = jnp.where(mask[..., None, None, :, :], scores, FORBIDDEN)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
    # Divided after the product: a pass over (Lq, d) is cheaper than one over (Lq, Lk).
    total = weights.sum(-1)[..., None]
    weights = weights.astype(value.dtype).reshape(*lead, heads, -1, key.shape[-3])
    out = jnp.matmul(weights, values).reshape(*lead, heads, -1, length, width)
    out = jnp.moveaxis((out / total).astype(value.dtype), -2, -4).reshape(query.shape)
    if mask is None:
        return out
    return jnp.where(mask.any(-1)[..., None, None], out, 0)
