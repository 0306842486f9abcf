"""How many tokens each video loses, decided by scores: shared in a row, or by a threshold.

`selection.select` drops a given number of each video's tokens. These functions choose the numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from stts_jax.pruning.frames import FrameTable
from stts_jax.pruning.selection import count, of_frames, ordered_bits, thresholds

_BELOW_ONE = float(np.nextafter(np.float32(1), np.float32(0)))


def share_in_row(scores: Float[Array, "B T P"], frames: FrameTable) -> FrameTable:
    """Shares the tokens that a row loses among its videos: the lowest scores of the row go.

    The row loses as many as its videos would, so it fits the same budget. Of equal scores those of
    earlier videos go first.

    Args:
      scores: (B, T, P), high for tokens to keep. No gradient passes.
      frames: the rows' frames, with k of each video.

    Returns:
      the same frames with another k of each video.
    """
    bits = ordered_bits(jax.lax.stop_gradient(scores))
    total = frames.to_prune.sum(1, keepdims=True)
    loses = of_frames(frames.to_prune, frames) > 0
    # All videos of a row as its first example, and the other frames as padding.
    others = frames.to_prune.shape[1] - 1
    row = dataclasses.replace(
        frames,
        example=jnp.where(loses, 0, others),
        to_prune=jnp.zeros_like(frames.to_prune).at[:, :1].set(total),
    )
    threshold, loses = thresholds(bits, row)[:, :1, None], loses[..., None]
    below = count((bits < threshold) & loses, frames)
    equal = count((bits == threshold) & loses, frames)
    before = jnp.cumsum(equal, axis=1) - equal
    left = total - below.sum(1, keepdims=True)
    return dataclasses.replace(frames, to_prune=below + jnp.clip(left - before, 0, equal))


def below_threshold(
    scores: Float[Array, "B T P"], frames: FrameTable, threshold: Float[Array, ...] | float
) -> FrameTable:
    """Lets each video lose the tokens that score below a threshold: as many as it has of them.

    Args:
      scores: (B, T, P), those of `protect_first_frames`, so that no video loses all.
      frames: the rows' frames.
      threshold: the score that a token needs to stay; one for all, or (B, 1, 1).

    Returns:
      the same frames with another k of each prunable video.
    """
    low = (jax.lax.stop_gradient(scores) < threshold) & frames.prunable[..., None]
    return dataclasses.replace(frames, to_prune=count(low, frames))


def bucket_index(kept: Int[Array, " B"], rooms: Sequence[int]) -> Int[Array, ""]:
    """Returns the index of the smallest size bucket that holds what every row keeps.

    Args:
      kept: (B,) tokens that each row keeps.
      rooms: tokens that a row of each bucket has room for, ascending; the last one must do.
    """
    largest: jax.Array = jnp.searchsorted(jnp.array(rooms), kept.max())
    return jnp.minimum(largest, len(rooms) - 1).astype(jnp.int32)


def calibrated_threshold(scores: Sequence[np.ndarray], ratio: float) -> float:
    """Returns the threshold below which a share of all videos' tokens score.

    Args:
      scores: (T, P) of each validation video, those of `protect_first_frames`.
      ratio: mean share of the tokens to drop over all of them, from 0 to below 1.

    Returns:
      a score below 1; dropping what is below it drops `ratio` of all tokens, but for equal scores
      and first frames, which stay.
    """
    ordered = np.sort(np.concatenate([video.reshape(-1) for video in scores]))
    found = float(ordered[min(round(ratio * len(ordered)), len(ordered) - 1)])
    return min(found, _BELOW_ONE)
