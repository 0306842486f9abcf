"""cuDNN's fused attention, for GPUs, by way of JAX."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from stts_jax.layers.attention.bias_columns import with_bias
from stts_jax.layers.attention.gpu import gpu_refusal, leads_refusal, type_refusal
from stts_jax.layers.attention.request import Request

# Widths of heads are a multiple of this.
WIDTH_STEP = 8
# Lengths are a multiple of this, or there is no gradient.
EVEN = 2


def cudnn_refusal(request: Request) -> str | None:
    """Why it cannot do what is asked, or None."""
    return gpu_refusal() or cudnn_shape_refusal(request)


def cudnn_shape_refusal(request: Request) -> str | None:
    """The same of what holds for any device."""
    if request.mask is not None or request.segment_ids is not None:
        return "it would make a mask or segments an array as large as the scores"
    if request.lengths[0] == 1:
        return "one query looks at its keys sooner in one product"
    leads = leads_refusal(math.prod(request.query.shape[:-3]))
    return leads or type_refusal(request.query, columns=0 if request.key_bias is None else 2)


def cudnn_attention(request: Request) -> jax.Array:
    """What `attention` returns, for a request that `cudnn_shape_refusal` has nothing against."""
    query, key = with_bias(request.query, request.key, request.key_bias)
    leads, (queries, keys) = math.prod(query.shape[:-3]), request.lengths
    lengths: dict[str, jax.Array] = {}
    if queries % EVEN or keys % EVEN:
        lengths = {
            "query_seq_lengths": jnp.full(leads, queries, jnp.int32),
            "key_value_seq_lengths": jnp.full(leads, keys, jnp.int32),
        }
    causal = request.mask_kind == "causal"
    out = _fused(query, key, request.value, is_causal=causal, **lengths)
    return out.reshape(request.query.shape)


def cudnn_frames(
    query: jax.Array, key: jax.Array, value: jax.Array, lengths: jax.Array
) -> jax.Array:
    """Attention among the first places of each frame: (F, N, H, d) each, and (F,) lengths."""
    query, key = with_bias(query, key, None)
    return _fused(query, key, value, query_seq_lengths=lengths, key_value_seq_lengths=lengths)


def _fused(query: jax.Array, key: jax.Array, value: jax.Array, **options: object) -> jax.Array:
    """Of queries that have the scale in them; (leads, Lq, H, d of `value`)."""
    width = -(-query.shape[-1] // WIDTH_STEP) * WIDTH_STEP

    def plain(x: jax.Array) -> jax.Array:
        x = x.reshape(math.prod(x.shape[:-3]), *x.shape[-3:])
        return jnp.pad(x, ((0, 0), (0, -x.shape[1] % EVEN), (0, 0), (0, width - x.shape[-1])))

    out = jax.nn.dot_product_attention(
        plain(query), plain(key), plain(value), scale=1.0, implementation="cudnn", **options
    )
    return out[:, : query.shape[-3], :, : value.shape[-1]]
