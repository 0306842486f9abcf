"""The splash attention kernel of JAX, for TPUs; a key's bias becomes an additional column."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import (
    BlockSizes,
    CausalMask,
    FullMask,
    MultiHeadMask,
    SegmentIds,
    make_splash_mha,
)

from stts_jax.attention.requests import AttentionRequest
from stts_jax.attention.softmax import with_bias_columns

# Lengths are padded to a multiple of the kernel's lanes.
LANES = 128
BLOCKS = (512, 256, 128)
PADDING = -1


def unsupported(request: AttentionRequest) -> str | None:
    """Returns why the kernel cannot compute a request on any TPU, or None."""
    queries, keys = request.lengths
    if request.mask is not None:
        return "it takes no mask but segment ids and kinds of mask"
    if queries != keys:
        return f"{queries} queries and {keys} keys; it is for as many of each"
    if queries < LANES:
        return f"{queries} tokens are fewer than its blocks of {LANES}"
    return None


def splash_attention(request: AttentionRequest, *, interpret: bool = False) -> jax.Array:
    """Computes `attention`.

    Args:
      request: for which `unsupported` is None.
      interpret: run the kernel's Python on any device, slowly.
    """
    *batch_dims, length, heads, _ = request.query.shape
    batch, size = math.prod(batch_dims), -(-length // LANES) * LANES
    query, key = with_bias_columns(request.query, request.key, request.key_bias)

    def heads_first(x: jax.Array) -> jax.Array:
        x = jnp.moveaxis(x.reshape(batch, length, *x.shape[-2:]), 1, 2)
        return jnp.pad(x, ((0, 0), (0, 0), (0, size - length), (0, 0)))

    ids = jnp.zeros((batch, length), jnp.int32)
    if request.segment_ids is not None:
        # Padding sees padding, as the kernel needs a key for every query; it is cleared below.
        ids = jnp.maximum(jnp.broadcast_to(request.segment_ids, (*batch_dims, length)), PADDING)
        ids = ids.reshape(batch, length)
    padded = jnp.pad(ids, ((0, 0), (0, size - length)), constant_values=PADDING)
    kind = CausalMask if request.mask_kind == "causal" else FullMask
    kernel = make_splash_mha(
        MultiHeadMask([kind((size, size)) for _ in range(heads)]),
        head_shards=1,
        q_seq_shards=1,
        block_sizes=_block_sizes(size),
        interpret=interpret,
    )
    out = jax.vmap(kernel)(
        heads_first(query),
        heads_first(key),
        heads_first(request.value),
        SegmentIds(padded, padded),
    )
    out = jnp.moveaxis(out[:, :, :length], 2, 1)
    if request.segment_ids is not None:
        out = jnp.where((ids >= 0)[..., None, None], out, 0)
    return out.reshape(*batch_dims, length, heads, request.value.shape[-1])


def _block_sizes(size: int) -> BlockSizes:
    block = next(n for n in BLOCKS if size % n == 0)
    return BlockSizes(
        block_q=block,
        block_kv=block,
        block_kv_compute=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        block_kv_dkv_compute=block,
        block_q_dq=block,
        block_kv_dq=block,
    )
