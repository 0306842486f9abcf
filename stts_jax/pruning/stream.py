"""The stream: the kept patches of a row one after the other, with their frame as segment id."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num

from stts_jax.attention import STREAM_TILE, stream_attention
from stts_jax.layers.gather import static_nonzero, take_rows
from stts_jax.pruning.layout import Step
from stts_jax.pytrees import register_pytree


@register_pytree
@dataclass(frozen=True)
class StreamLayout:
    """The kept patches of each row, (B, S, ...).

    Attributes:
      source: (B, S) int32, `frame * N + patch` of each slot, T * N at empty slots.
      segment_ids: (B, S) int32, frame of each slot, -1 at empty slots.
      slot: (B, T * N) int32, slot of each patch, -1 if it is dropped.
      patches: N.
    """

    source: Int[Array, "B S"]
    segment_ids: Int[Array, "B S"]
    slot: Int[Array, "B TN"]
    patches: int = field(metadata={"static": True})

    def gather(self, x: Num[Array, "B T N D"]) -> Num[Array, "B S D"]:
        """Moves kept patches into the stream: (B, T, N, D) -> (B, S, D), zeros at empty slots."""
        rows, frames, count, width = x.shape
        return take_rows(x.reshape(rows, frames * count, width), self.source)

    def attend(
        self,
        query: Float[Array, "B S H h"],
        key: Float[Array, "B S H h"],
        value: Float[Array, "B S H h"],
    ) -> Float[Array, "B S H h"]:
        """Attends among the kept patches of each frame: (B, S, H, d) each."""
        return stream_attention(
            query,
            key,
            value,
            self.segment_ids,
            longest_segment=self.patches,
            segments=self.slot.shape[1] // self.patches,
        )

    def apply_block(self, step: Step, block: Any, x: jax.Array) -> jax.Array:
        """Runs a block: (B, S, D) -> (B, S, D)."""
        return step(block, x, self)

    def lookup(
        self, features: Num[Array, "B S D"], patches: Int[Array, "B V G"]
    ) -> Num[Array, "B V G D"]:
        """See `Layout.lookup`; features are (B, S, D)."""
        return take_rows(features, take_rows(self.slot, patches, fill=-1))


def stream_size(patches: int) -> int:
    """Returns S for a row that keeps up to `patches` patches: whole tiles of a TPU's memory."""
    return -(-patches // STREAM_TILE) * STREAM_TILE


def stream_layout(keep_patches: Bool[Array, "B T N"], size: int) -> StreamLayout:
    """Lays the kept patches of each row out as one stream.

    Args:
      keep_patches: (B, T, N) bool.
      size: S, static, at least as many as any row keeps; patches beyond it would be lost.
    """
    rows, frames, patches = keep_patches.shape
    source, slot = static_nonzero(keep_patches.reshape(rows, frames * patches), size)
    segment_ids = jnp.where(source < frames * patches, source // patches, -1)
    return StreamLayout(source, segment_ids, slot, patches)
