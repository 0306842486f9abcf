"""The arguments of `attention` and `stream_attention`, as backends get them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import jax

from stts_jax.attention.masks import IndexMask, Mask, MaskKind, index_mask


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class AttentionRequest:
    """The arguments of `attention`; see there."""

    query: jax.Array
    key: jax.Array
    value: jax.Array
    mask: Mask | None = None
    key_bias: jax.Array | None = None
    segment_ids: jax.Array | None = None
    mask_kind: MaskKind = field(default="full", metadata={"static": True})

    @property
    def lengths(self) -> tuple[int, int]:
        """Lq and Lk."""
        return self.query.shape[-3], self.key.shape[-3]

    def check(self) -> None:
        """Raises a ValueError for arguments that contradict each other."""
        if self.mask_kind not in ("full", "causal"):
            raise ValueError(f"mask_kind is '{self.mask_kind}'; use 'full' or 'causal'")
        heads, key_heads = self.query.shape[-2], self.key.shape[-2]
        if heads % key_heads:
            raise ValueError(
                f"attention got {heads} query heads and {key_heads} key heads; every key head "
                "serves the same number of query heads, so use a multiple"
            )
        queries, keys = self.lengths
        limited = self.segment_ids is not None or self.mask_kind == "causal"
        if queries != keys and limited:
            raise ValueError(
                f"attention got {queries} queries and {keys} keys; "
                "segment_ids and mask_kind='causal' need as many of each, so give a mask instead"
            )
        if self.mask is not None and limited:
            raise ValueError(
                "attention got a mask and segment_ids or mask_kind='causal'; "
                "express all of it in the mask"
            )

    def flash_unsupported(self, shortest: int) -> str | None:
        """Returns why flash attention under an `IndexMask` cannot compute this, or None.

        Args:
          shortest: the fewest queries and keys.
        """
        if not isinstance(self.with_one_mask().mask, IndexMask):
            return "it is for masks given by ids of each token"
        if self.key_bias is not None:
            return "it takes no bias"
        if self.query.ndim != 4 or min(self.lengths) < shortest:
            return f"it is for (B, L, H, d) with L of {shortest} or more"
        return None

    def with_one_mask(self) -> AttentionRequest:
        """Returns the same request with segment ids and kind of mask turned into a mask."""
        if self.mask is not None:
            return self
        mask = index_mask(self.lengths[0], self.segment_ids, self.mask_kind)
        return dataclasses.replace(self, mask=mask, segment_ids=None, mask_kind="full")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StreamRequest:
    """The arguments of `stream_attention`; see there."""

    query: jax.Array
    key: jax.Array
    value: jax.Array
    segment_ids: jax.Array
    longest: int = field(metadata={"static": True})
    segments: int = field(metadata={"static": True})

    @property
    def qkv(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Query, key and value."""
        return self.query, self.key, self.value
