"""Attention: with a mask and a per-key bias, and local within the segments of a stream."""

from __future__ import annotations

import jax

from stts_jax.layers.attention.backends import BACKENDS
from stts_jax.layers.attention.choice import choose
from stts_jax.layers.attention.devices import on_own_rows
from stts_jax.layers.attention.masks import Mask
from stts_jax.layers.attention.request import MaskKind, Request
from stts_jax.layers.attention.stream import STREAM_BACKENDS, StreamRequest

__all__ = ["Mask", "attention", "stream_attention"]


def attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    mask: Mask | None = None,
    key_bias: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
    mask_kind: MaskKind = "full",
    backend: str = "auto",
) -> jax.Array:
    """Scaled dot-product attention with the softmax in float32.

    No Lq x Lk array is kept for the backward pass, and none of more than a block's scores is made
    where there are many. What nobody may see is multiplied by 0, so all numbers must be finite.

    Args:
      query: (B, ..., Lq, H, d).
      key: (B, ..., Lk, K, d); each key head serves H / K consecutive query heads.
      value: (B, ..., Lk, K, d).
      mask: (B, ..., Lq or 1, Lk) bool, True where the query may look; or a `PlaceMask`, of which
        no Lq x Lk array is made where there are many scores.
      key_bias: (B, ..., Lk) float, added to the scores of a key for all heads.
      segment_ids: (B, ..., L) int, places of other segments aren't seen, and padding (below 0) by
        nobody; for as many queries as keys.
      mask_kind: `causal` lets places see only themselves and what comes before.
      backend: `auto`, or the name of one of `backends.BACKENDS`, which then runs or raises.

    Returns:
      (B, ..., Lq, H, d) in the dtype of `value`; exactly 0 for a query that may look nowhere.

    Raises:
      ValueError: for a backend that cannot do what is asked, or arguments that don't go together.
    """
    request = Request(query, key, value, mask, key_bias, segment_ids, mask_kind)
    request.check()

    def attend(own: Request) -> jax.Array:
        return choose(BACKENDS, "attention", own, backend).run(own)

    return on_own_rows(attend, request)


def stream_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment_ids: jax.Array,
    *,
    longest_segment: int,
    segments: int,
    backend: str = "auto",
) -> jax.Array:
    """Attention within the segments of a stream whose segments are contiguous and in order.

    Args:
      query, key, value: (B, S, H, d), finite at padding too: what is there is multiplied by 0.
      segment_ids: (B, S) int, non-decreasing; negative ids are padding at the end.
      longest_segment: tokens of the longest segment that can occur.
      segments: ids are below this.
      backend: `auto`, or the name of one of `stream.STREAM_BACKENDS`, which then runs or raises.

    Returns:
      (B, S, H, d); 0 at padding.

    Raises:
      ValueError: for a backend that cannot do what is asked.
    """
    request = StreamRequest(query, key, value, segment_ids, longest_segment, segments)

    def attend(own: StreamRequest) -> jax.Array:
        return choose(STREAM_BACKENDS, "attention of streams", own, backend).run(own)

    return on_own_rows(attend, request)
