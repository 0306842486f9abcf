"""The plan of a drop: from scores to what stays in the ViT and in the LLM.

The ViT goes on with the patches of the kept pooled tokens, in a layout of static size. The LLM
drops the same tokens by one gather and keeps the positions of the rest.

Source: paper 3.3; olmo/nn/temporal_image_vit.py and temporal_vision_backbone.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from stts_jax.layers.gather import static_nonzero, take_rows
from stts_jax.pruning.frames import FrameTable
from stts_jax.pruning.layout import Layout
from stts_jax.pruning.merging import Merging, merging
from stts_jax.pruning.pooling_windows import to_patches
from stts_jax.pruning.selection import select
from stts_jax.pytrees import register_pytree


@register_pytree
@dataclass(frozen=True)
class PruningPlan:
    """What stays of the frames of each row.

    Attributes:
      keep: (B, T, P) bool, pooled tokens that stay.
      keep_patches: (B, T, N) bool, their patches.
      layout: of the patches in the blocks of the ViT after the drop.
      merging: of dropped tokens into kept ones, None where they are gone.
    """

    keep: Bool[Array, "B T P"]
    keep_patches: Bool[Array, "B T N"]
    layout: Layout
    merging: Merging | None = None

    def merge(self, x: Float[Array, "B T N D"]) -> Float[Array, "B T N D"]:
        """Averages what merges, before the drop: (B, T, N, D) -> (B, T, N, D)."""
        return x if self.merging is None else self.merging.average(x)

    def llm_tokens(
        self,
        token_pooling: Int[Array, "B V_before G"],
        is_visual: Bool[Array, "B L_before"],
        valid: Bool[Array, "B L_before"],
        *,
        visual: int,
        tokens: int,
    ) -> LlmTokens:
        """Returns what stays of the LLM's input: a visual token stays if any of its patches does.

        The n-th visual token of a row belongs to its n-th pooling window that is not empty.

        Args:
          token_pooling: (B, V before, G) int, the patches of each visual token as
            `frame * N + patch`, -1 at empty window entries.
          is_visual: (B, L before) bool, tokens that stand for a pooling window.
          valid: (B, L before) bool, False for padding.
          visual: V, static, at least as many visual tokens as any row keeps.
          tokens: L, static, at least as many tokens as any row keeps.
        """
        rows = self.keep_patches.shape[0]
        patches = self.keep_patches.reshape(rows, -1)
        stays = take_rows(patches, token_pooling, fill=False).any(-1)
        window, _ = static_nonzero(stays, visual)
        filled, _ = static_nonzero((token_pooling >= 0).any(-1), token_pooling.shape[1])
        stays_by_number = take_rows(stays, filled, fill=False)
        visual_stays = take_rows(stays_by_number, _numbers(is_visual), fill=False)
        return LlmTokens(
            windows=take_rows(token_pooling, window, fill=-1),
            source=static_nonzero(jnp.where(is_visual, visual_stays, valid), tokens)[0],
        )


@register_pytree
@dataclass(frozen=True)
class LlmTokens:
    """What stays of the LLM's input.

    Attributes:
      windows: (B, V, G) int32, the patches of each visual token that stays, -1 where there is none.
      source: (B, L) int32, position in the row before the drop of each token that stays, in order;
        L before where there is none.
    """

    windows: Int[Array, "B V G"]
    source: Int[Array, "B L"]

    def gather(
        self, x: Shaped[Array, "B L_before ..."], fill: float = 0
    ) -> Shaped[Array, "B L ..."]:
        """Drops from the rows of x what does not stay: (B, L before, ...) -> (B, L, ...)."""
        return take_rows(x, self.source, fill)


def make_plan(
    scores: Float[Array, "B T P"],
    frames: FrameTable,
    *,
    grid: int,
    pooling: int,
    layout_of: Callable[[jax.Array], Layout],
    targets: Int[Array, "B T P"] | None = None,
) -> PruningPlan:
    """Selects the tokens that stay by their scores, and lays out their patches.

    Args:
      scores: (B, T, P), high for tokens to keep; those of `protect_first_frames` where first frames
        must stay.
      frames: the rows' frames, with k of each video.
      grid: patches along a side of a frame.
      pooling: side w of a pooling window in patches.
      layout_of: from kept patches (B, T, N) to their layout, for instance
        `partial(stream_layout, size=...)`.
      targets: (B, T, P) int32, the window that each one merges into if it is dropped, see
        `merging.merging`; None to drop it.
    """
    keep = select(scores, frames)
    keep_patches = to_patches(keep, grid, pooling)
    merged = None if targets is None else merging(keep, targets, pooling)
    return PruningPlan(keep, keep_patches, layout_of(keep_patches), merged)


def at_visual_tokens(
    features: Float[Array, "B V d"], is_visual: Bool[Array, "B L"]
) -> Float[Array, "B L d"]:
    """Puts the n-th visual feature of a row at its n-th visual token, zeros elsewhere.

    Args:
      features: (B, V, d).
      is_visual: (B, L) bool.

    Returns:
      (B, L, d).
    """
    return take_rows(features, _numbers(is_visual))


def _numbers(is_visual: jax.Array) -> jax.Array:
    """Numbers the visual tokens of each row from 0: (B, L) int32, -1 at other tokens."""
    return jnp.where(is_visual, jnp.cumsum(is_visual, axis=1) - 1, -1)
