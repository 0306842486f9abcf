"""Attention with a mask and a bias of keys, and attention within the segments of a stream.

`attention` and `stream_attention` are the two functions; `backend="auto"` takes the best backend
for the platform (docs/attention.md). `IndexMask` is a mask that is never an Lq x Lk array. Streams
of whole `STREAM_TILE`s need no padding on a TPU.
"""

from __future__ import annotations

from stts_jax.attention.api import attention, stream_attention
from stts_jax.attention.masks import (
    MASK_VALUE,
    IndexMask,
    Mask,
    MaskSpec,
    TokenMaskIds,
    as_array,
    segment_mask,
)
from stts_jax.attention.tpu.stream_windows import TILE as STREAM_TILE

__all__ = [
    "MASK_VALUE",
    "STREAM_TILE",
    "IndexMask",
    "Mask",
    "MaskSpec",
    "TokenMaskIds",
    "as_array",
    "attention",
    "segment_mask",
    "stream_attention",
]
