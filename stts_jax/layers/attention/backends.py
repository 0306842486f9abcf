"""The ways to compute attention, best first."""

from __future__ import annotations

import jax

from stts_jax.layers.attention.blockwise import blockwise_attention
from stts_jax.layers.attention.choice import Backend, kernel_refusal
from stts_jax.layers.attention.cudnn import cudnn_attention, cudnn_refusal
from stts_jax.layers.attention.dense import dense_attention
from stts_jax.layers.attention.masks import PlaceMask
from stts_jax.layers.attention.place_kernel import place_attention, place_refusal
from stts_jax.layers.attention.place_triton import place_triton, place_triton_refusal
from stts_jax.layers.attention.request import Request
from stts_jax.layers.attention.splash import splash_attention, splash_refusal
from stts_jax.layers.attention.stream_kernel import frames_kernel, frames_refusal

# Fewer scores than this are made at once.
FEW_SCORES = 2**19


def xla_attention(request: Request) -> jax.Array:
    """Plain XLA, on any device: at once if there are few scores, else block by block."""
    request = request.with_one_mask()
    query, key, mask = request.query, request.key, request.mask
    scores = query.size // query.shape[-1] * key.shape[-3]
    if scores <= FEW_SCORES or query.shape[-3] == 1:
        mask = mask.array() if isinstance(mask, PlaceMask) else mask
        return dense_attention(query, key, request.value, mask=mask, key_bias=request.key_bias)
    return blockwise_attention(query, key, request.value, mask=mask, key_bias=request.key_bias)


def _frames_refusal(request: Request) -> str | None:
    return kernel_refusal("tpu") or frames_refusal(request)


def _frames(request: Request) -> jax.Array:
    return frames_kernel(request.query, request.key, request.value, request.key_bias)


BACKENDS = (
    Backend("stream_kernel", _frames_refusal, _frames),
    Backend("splash", splash_refusal, splash_attention),
    Backend("place_kernel", place_refusal, place_attention),
    Backend("cudnn", cudnn_refusal, cudnn_attention),
    Backend("place_triton", place_triton_refusal, place_triton),
    Backend("xla", lambda request: None, xla_attention),
)
