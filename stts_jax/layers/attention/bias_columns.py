"""A key's bias for kernels that know none.

`softmax(q k / sqrt(d) + b)` is `softmax([q / sqrt(d), 1] [k, b])`, so any kernel makes it, and its
gradient. In bfloat16 the bias is split in two columns, what bfloat16 holds of it and the rest.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def with_bias(
    query: jax.Array, key: jax.Array, key_bias: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """Queries with the softmax's scale in them, and keys, with columns for the bias if any.

    Args:
      query: (..., Lq, H, d).
      key: (..., Lk, K, d).
      key_bias: (..., Lk).
    """
    query = query * query.shape[-1] ** -0.5
    if key_bias is None:
        return query, key
    bias = jnp.broadcast_to(key_bias, key.shape[:-2]).astype(jnp.float32)
    columns = [bias.astype(key.dtype)]
    if key.dtype != jnp.float32:
        columns.append((bias - columns[0].astype(jnp.float32)).astype(key.dtype))
    more = jnp.stack(columns, axis=-1)[..., None, :]
    more = jnp.broadcast_to(more, (*key.shape[:-1], len(columns)))
    ones = jnp.ones((*query.shape[:-1], len(columns)), query.dtype)
    return jnp.concatenate([query, ones], -1), jnp.concatenate([key, more], -1)
