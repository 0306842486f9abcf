"""Attention within the segments of a stream, with static blocks: plain XLA on accelerators."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from stts_jax.layers.attention.blockwise import blockwise_attention
from stts_jax.layers.attention.masks import segment_mask


def neighbour_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment_ids: jax.Array,
    longest_segment: int,
) -> jax.Array:
    """As `stream_attention`.

    A segment is at most `longest_segment` long, so a block of that many queries finds all its keys
    in the block itself and its two neighbours. All rows go together, as they may lie on several
    devices; no more than one block's scores of each exist at a time.
    """
    rows, length, heads, width = query.shape
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
        return blockwise_attention(
            window(queries, block), window(keys, 3 * block), window(values, 3 * block), mask=mask
        )

    # Recomputed in the backward pass, so that no window is kept.
    out = jax.lax.map(jax.checkpoint(attend), jnp.arange(blocks))
    out = jnp.moveaxis(out, 0, 1).reshape(rows, blocks * block, heads, width)
    return out[:, :length]
