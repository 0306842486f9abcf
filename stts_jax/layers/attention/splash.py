"""The splash attention kernel of JAX, for TPUs; a key's bias goes in as a column more."""

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

from stts_jax.layers.attention.bias_columns import with_bias
from stts_jax.layers.attention.choice import kernel_refusal
from stts_jax.layers.attention.request import Request

# The kernel's lanes: lengths are padded to a multiple.
LANES = 128
BLOCKS = (512, 256, 128)
PADDING = -1


def splash_refusal(request: Request) -> str | None:
    """Why the kernel cannot do what is asked, or None."""
    return kernel_refusal("tpu") or splash_shape_refusal(request)


def splash_shape_refusal(request: Request) -> str | None:
    """The same of what holds for any device."""
    length, places = request.query.shape[-3], request.key.shape[-3]
    if request.mask is not None:
        return "it takes no mask but segment ids and kinds of mask"
    if length != places:
        return f"{length} queries and {places} keys; it is for as many of each"
    if length < LANES:
        return f"{length} places are fewer than its blocks of {LANES}"
    return None


def splash_attention(request: Request, *, interpret: bool = False) -> jax.Array:
    """What `attention` returns.

    Args:
      request: one that `splash_shape_refusal` has nothing against.
      interpret: run the kernel's Python on any device, slowly.
    """
    *lead, length, heads, _ = request.query.shape
    leads, size = math.prod(lead), -(-length // LANES) * LANES
    query, key = with_bias(request.query, request.key, request.key_bias)

    def heads_first(x: jax.Array) -> jax.Array:
        x = jnp.moveaxis(x.reshape(leads, length, *x.shape[-2:]), 1, 2)
        return jnp.pad(x, ((0, 0), (0, 0), (0, size - length), (0, 0)))

    ids = jnp.zeros((leads, length), jnp.int32)
    if request.segment_ids is not None:
        # Padding sees padding, as the kernel wants a key for every query; it is cleared below.
        ids = jnp.maximum(jnp.broadcast_to(request.segment_ids, (*lead, length)), PADDING)
        ids = ids.reshape(leads, length)
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
    return out.reshape(*lead, length, heads, request.value.shape[-1])


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
