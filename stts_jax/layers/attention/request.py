"""What is asked of a backend."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

import jax

from stts_jax.layers.attention.masks import Mask, places_mask

MaskKind = Literal["full", "causal"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Request:
    """The arguments of `attention`, which says what they mean."""

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
        """Raise a ValueError for arguments that don't go together."""
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
                "let the mask say all of it"
            )

    def with_one_mask(self) -> Request:
        """The same with segment ids and kind of mask in the mask."""
        if self.mask is not None:
            return self
        mask = places_mask(self.lengths[0], self.segment_ids, self.mask_kind)
        return dataclasses.replace(self, mask=mask, segment_ids=None, mask_kind="full")
