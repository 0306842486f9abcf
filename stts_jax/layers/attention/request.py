"""What is asked of a backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from stts_jax.layers.attention.masks import segment_mask

MaskKind = Literal["full", "causal"]


@dataclass(frozen=True)
class Request:
    """The arguments of `attention`, which says what they mean."""

    query: jax.Array
    key: jax.Array
    value: jax.Array
    mask: jax.Array | None = None
    key_bias: jax.Array | None = None
    segment_ids: jax.Array | None = None
    mask_kind: MaskKind = "full"

    def __post_init__(self) -> None:
        if self.mask_kind not in ("full", "causal"):
            raise ValueError(f"mask_kind is '{self.mask_kind}'; use 'full' or 'causal'")
        heads, key_heads = self.query.shape[-2], self.key.shape[-2]
        if heads % key_heads:
            raise ValueError(
                f"attention got {heads} query heads and {key_heads} key heads; every key head "
                "serves the same number of query heads, so use a multiple"
            )
        square = self.query.shape[-3] == self.key.shape[-3]
        if not square and (self.segment_ids is not None or self.mask_kind == "causal"):
            raise ValueError(
                f"attention got {self.query.shape[-3]} queries and {self.key.shape[-3]} keys; "
                "segment_ids and mask_kind='causal' need as many of each, so give a mask instead"
            )

    def whole_mask(self) -> jax.Array | None:
        """(..., Lq or 1, Lk) bool of everything that limits who sees whom, or None."""
        masks = [] if self.mask is None else [self.mask]
        if self.segment_ids is not None:
            masks.append(segment_mask(self.segment_ids, self.segment_ids))
        if self.mask_kind == "causal":
            length = self.query.shape[-3]
            masks.append(jnp.tril(jnp.ones((length, length), bool)))
        whole = masks.pop() if masks else None
        while masks:
            whole = masks.pop() & whole
        return whole
