"""The parts that baselines by similarity share: unit windows, protection, and retries.

The reference's retries start from what the try before had pruned, so that each drops k more; here
every try starts from scratch.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from stts_jax.pruning.frames import FrameTable
from stts_jax.pruning.pooling_windows import to_windows
from stts_jax.pruning.selection import select

# A protected token scores like one that has nothing in common with its reference.
PROTECTED_SIMILARITY = 1.0
TRIES = 5
THRESHOLD_STEP = 0.05


def unit_windows(x: Float[Array, "B T N D"], pooling: int) -> Float[Array, "B T P width"]:
    """Concatenates each window's patches, scaled to length 1: (B, T, N, D) -> (B, T, P, w*w*D)."""
    windows = to_windows(jax.lax.stop_gradient(x).astype(jnp.float32), pooling)
    windows = windows.reshape(*windows.shape[:-2], -1)
    return windows / jnp.maximum(jnp.linalg.norm(windows, axis=-1, keepdims=True), 1e-12)


def previous_frame(windows: Float[Array, "B T P width"]) -> Float[Array, "B T P width"]:
    """Returns the windows of the frame before, zeros before the first: (B, T, P, width)."""
    return jnp.pad(windows, ((0, 0), (1, 0), (0, 0), (0, 0)))[:, :-1]


def thresholds_to_try(threshold: float | Float[Array, ""]) -> Float[Array, " tries"]:
    """Returns (tries,) thresholds, each lower than the one before."""
    return threshold - THRESHOLD_STEP * jnp.arange(TRIES)


def first_good_try(
    scores: Float[Array, "tries B T P"], frames: FrameTable, thresholds: Float[Array, " tries"]
) -> Float[Array, "B T P"]:
    """Returns per example the scores of the first try that drops no protected token, else the last.

    Args:
      scores: (tries, B, T, P).
      frames: the rows' frames.
      thresholds: (tries,); one below 0 is not tried.

    Returns:
      (B, T, P).
    """
    kept = jax.vmap(lambda own: select(own, frames))(scores)
    protected = scores == PROTECTED_SIMILARITY
    bad_frames = (~kept & frames.real[..., None] & protected).any(-1)
    member = jax.nn.one_hot(frames.example, frames.start.shape[1], dtype=bool, axis=1)
    bad = (bad_frames[:, :, None] & member).any(-1)
    allowed = (jnp.arange(TRIES) == 0) | (thresholds >= 0)
    good = ~bad & allowed[:, None, None]
    last = jnp.maximum(allowed.sum() - 1, 0)
    chosen = jnp.where(good.any(0), jnp.argmax(good, axis=0), last)
    chosen = jnp.take_along_axis(chosen, frames.example, axis=1)
    return jnp.take_along_axis(scores, chosen[None, :, :, None], axis=0)[0]
