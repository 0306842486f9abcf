"""The frames of packed rows: the example each belongs to, and which of them may lose tokens."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from stts_jax.pytrees import register_pytree


@register_pytree
@dataclass(frozen=True)
class FrameTable:
    """The frames of a batch of rows.

    Attributes:
      example: (B, T) int32, index of the frame's example in its row; M for padding.
      real: (B, T) bool, False for padding.
      first: (B, T) bool, first frame of its example.
      prunable: (B, T) bool, of a video that loses at least one token, or may at another ratio.
      start: (B, M + 1) int32, index of the first frame of each example, of the padding last.
      to_prune: (B, M + 1) int32, k of each example, 0 for the padding.
    """

    example: Int[Array, "B T"]
    real: Bool[Array, "B T"]
    first: Bool[Array, "B T"]
    prunable: Bool[Array, "B T"]
    start: Int[Array, "B M1"]
    to_prune: Int[Array, "B M1"]


def frame_table(
    num_images: Int[Array, "B M"],
    to_prune: Int[Array, "B M"],
    frames: int,
    prunable: Bool[Array, "B M"] | None = None,
) -> FrameTable:
    """Assigns the frames of each row to its examples.

    By default a video whose count k is cut to 0 is treated as not prunable, as in the reference.

    Args:
      num_images: (B, M) int, frames of each example in row order, -1 where there is none.
      to_prune: (B, M) int, k of each example: the pooled tokens that it loses, for instance
        `budget.tokens_to_prune`.
      frames: T.
      prunable: (B, M) bool, examples whose scores count in bias and temporal loss, also where k
        is 0; by default those of which k is not.
    """
    counts = jnp.maximum(num_images, 0)
    ends = jnp.cumsum(counts, axis=1)
    start = jnp.concatenate([ends - counts, ends[:, -1:]], axis=1)
    index = jnp.arange(frames)
    example = (index[None, :, None] >= ends[:, None, :]).sum(-1).astype(jnp.int32)
    to_prune = jnp.pad(to_prune.astype(jnp.int32), ((0, 0), (0, 1)))
    prunable = to_prune[:, :-1] > 0 if prunable is None else prunable
    prunable = jnp.pad(prunable, ((0, 0), (0, 1)))
    return FrameTable(
        example=example,
        real=example < num_images.shape[1],
        first=index == jnp.take_along_axis(start, example, axis=1),
        prunable=jnp.take_along_axis(prunable, example, axis=1),
        start=start,
        to_prune=to_prune,
    )
