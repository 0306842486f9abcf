"""The bias log S of one attention layer, the path of the LLM's gradient to the scorer.

Source: paper 3.2; olmo/nn/temporal_image_vit.py:451-473.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from stts_jax.pruning.frames import FrameTable
from stts_jax.pruning.pooling_windows import to_patches


def score_bias(
    scores: Float[Array, "B T P"], frames: FrameTable, *, grid: int, pooling: int, minimum: float
) -> Float[Array, "B T N"]:
    """Returns the additive attention bias of each patch as a key.

    The scores of each row of windows are rescaled to [minimum, 1] on their own, not per frame or
    video: surprising, but weights were trained with it. First frames of videos and everything that
    is not pruned get no bias.

    Args:
      scores: (B, T, P) in (0, 1).
      frames: the rows' frames.
      grid: patches along a side of the frame.
      pooling: side w of a pooling window in patches.
      minimum: value that the lowest score of a row of windows is rescaled to.

    Returns:
      (B, T, N) float32, in [log(minimum), 0].
    """
    side = math.isqrt(scores.shape[-1])
    rows = scores.reshape(*scores.shape[:-1], side, side)
    low, high = rows.min(-1, keepdims=True), rows.max(-1, keepdims=True)
    rescaled = minimum + (rows - low) * (1.0 - minimum) / (high - low + 1e-6)
    biased = (frames.prunable & ~frames.first)[..., None, None]
    bias = jnp.log(jnp.where(biased, rescaled, 1.0)).reshape(scores.shape)
    return to_patches(bias, grid, pooling)
