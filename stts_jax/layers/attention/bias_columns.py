"""A key's bias for kernels that know none.

`softmax(q k / sqrt(d) + b)` is `softmax([q / sqrt(d), 1] [k, b])`, so any kernel makes it, and its
gradient. In bfloat16 the bias is split in two columns, what bfloat16 holds of it and the rest.
An infinite one would have no rest, and is held to what keeps a key out of every softmax.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from stts_jax.layers.attention.masks import FORBIDDEN


def with_bias(
    query: jax.Array, key: jax.Array, key_bias: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """Queries with the softmax's scale in them, and keys, with columns for the bias if any.

    Args:
      query: (..., Lq, H, d).
      key: (..., Lk, K, d).
      key_bias: (..., Lk), infinite at keys that nobody should see.
    """
    query = query * query.shape[-1] ** -0.5
    if key_bias is None:
        return query, key
    most = min(-FORBIDDEN, float(jnp.finfo(key.dtype).max))
    bias = jnp.broadcast_to(key_bias, key.shape[:-2]).astype(jnp.float32).clip(-most, most)
    columns = [bias.astype(key.dtype)]
    if key.dtype != jnp.float32:
        columns.append((bias - columns[0].astype(jnp.float32)).astype(key.dtype))
    more = jnp.stack(columns, axis=-1)[..., None, :]
    more = jnp.broadcast_to(more, (*key.shape[:-1], len(columns)))
    ones = jnp.ones((*query.shape[:-1], len(columns)), query.dtype)
    return jnp.concatenate([query, ones], -1), jnp.concatenate([key, more], -1)
