"""Attention: dense with a mask and a per-key bias, and local within the segments of a stream."""

from __future__ import annotations

import jax
import jax.numpy as jnp

# Scores of forbidden keys. Finite, so that a row with no key at all yields 0 and not NaN.
FORBIDDEN = -1e30
# Scores that a CPU's cache holds.
CACHED_SCORES = 2**19
# Streams of at most this many neighbourhoods are cheaper as one dense product.
DENSE_STREAM_SEGMENTS = 6


def attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    mask: jax.Array | None = None,
    key_bias: jax.Array | None = None,
) -> jax.Array:
    """Scaled dot-product attention with the softmax in float32.

    The scores are made again in the backward pass, so that no layer keeps an Lq x Lk array. On
    CPUs rows are taken one after the other where the scores of all would not stay in the cache.

    Args:
      query: (B, ..., Lq, H, d).
      key: (B, ..., Lk, K, d); each key head serves H / K consecutive query heads.
      value: (B, ..., Lk, K, d).
      mask: (B, ..., Lq or 1, Lk) bool, True where the query may look.
      key_bias: (B, ..., Lk) float, added to the scores of a key for all heads.

    Returns:
      (B, ..., Lq, H, d) in the dtype of `value`; exactly 0 for a query that may look nowhere.
    """
    arguments = (query, key, value, mask, key_bias)
    scores = query.size // query.shape[-1] * key.shape[-3]
    if jax.default_backend() == "cpu" and scores > CACHED_SCORES:
        return jax.lax.map(lambda row: jax.checkpoint(_attend)(*row), arguments)
    return jax.checkpoint(_attend)(*arguments)


def _attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array | None,
    key_bias: jax.Array | None,
) -> jax.Array:
    """As `attention`, of any leading dimensions."""
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


def segment_mask(query_segments: jax.Array, key_segments: jax.Array) -> jax.Array:
    """(..., Lq), (..., Lk) -> (..., Lq, Lk) bool: same segment, and no padding (id below 0)."""
    same = query_segments[..., :, None] == key_segments[..., None, :]
    return same & (query_segments[..., :, None] >= 0)


def stream_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment_ids: jax.Array,
    longest_segment: int,
) -> jax.Array:
    """Attention within the segments of a stream whose segments are contiguous and in order.

    A segment is at most `longest_segment` long, so a block of that many queries finds all its keys
    in the block itself and its two neighbours; blocks are visited one after the other, and no more
    than one block's scores exist at a time.

    Args:
      query, key, value: (B, S, H, d).
      segment_ids: (B, S) int, non-decreasing; negative ids are padding at the end.
      longest_segment: tokens of the longest segment that can occur.

    Returns:
      (B, S, H, d); 0 at padding.
    """
    rows, length, heads, width = query.shape
    if length <= DENSE_STREAM_SEGMENTS * longest_segment:
        return attention(query, key, value, mask=segment_mask(segment_ids, segment_ids))

    block = longest_segment
    blocks = -(-length // block)
    after = blocks * block - length

    def padded(x: jax.Array, before: int, after: int, fill: int = 0) -> jax.Array:
        widths = [(0, 0), (before, after)] + [(0, 0)] * (x.ndim - 2)
        return jnp.pad(x, widths, constant_values=fill)

    queries = padded(query, 0, after)
    query_ids = padded(segment_ids, 0, after, -1)
    keys, values = padded(key, block, after + block), padded(value, block, after + block)
    key_ids = padded(segment_ids, block, after + block, -1)

    def attend(index: jax.Array) -> jax.Array:
        start = index * block

        def window(x: jax.Array, size: int) -> jax.Array:
            return jax.lax.dynamic_slice_in_dim(x, start, size, axis=1)

        mask = segment_mask(window(query_ids, block), window(key_ids, 3 * block))
        return attention(
            window(queries, block), window(keys, 3 * block), window(values, 3 * block), mask=mask
        )

    # Recomputed in the backward pass: the scores of all blocks together would be S x 3N per head.
    out = jax.lax.map(jax.checkpoint(attend), jnp.arange(blocks))
    out = jnp.moveaxis(out, 0, 1).reshape(rows, blocks * block, heads, width)
    return out[:, :length]
