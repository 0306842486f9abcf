"""Selection: exactly k pooled tokens of every video are dropped, the lowest scores first.

Source: paper 3.3; olmo/nn/temporal_image_vit.py.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Num, UInt32

from stts_jax.parallel.mesh import shard_rows
from stts_jax.pruning.frames import FrameTable

# Score of tokens that are dropped only if nothing else is left (the reference's value).
PROTECTED_SCORE = 100.0


def protect_first_frames(
    scores: Float[Array, "B T P"], frames: FrameTable
) -> Float[Array, "B T P"]:
    """Raises the scores of first frames above all others: (B, T, P) -> (B, T, P)."""
    return jnp.where(frames.first[..., None], PROTECTED_SCORE, scores)


def select(scores: Float[Array, "B T P"], frames: FrameTable) -> Bool[Array, "B T P"]:
    """Drops the k lowest-scored tokens of each video; of equal ones, the earlier go first.

    Nothing is sorted. The k-th lowest score of a video is found bit by bit, for all videos of all
    rows at once, by counting 32 times. To sort 384 frames took XLA:CPU eleven times as long, and a
    TPU's compiler over 20 seconds.

    Args:
      scores: (B, T, P), high for tokens to keep. No gradient passes.
      frames: the rows' frames, with k of each example.

    Returns:
      (B, T, P) bool, True for tokens that stay; True in everything that is not pruned, False in
      padding frames.
    """
    bits = shard_rows(ordered_bits(jax.lax.stop_gradient(scores)))
    threshold = of_frames(thresholds(bits, frames), frames)[..., None]
    below, equal = bits < threshold, bits == threshold
    # Tokens that score exactly the threshold are dropped until k are.
    left = of_frames(frames.to_prune - count(below, frames), frames)[..., None]
    dropped = below | (equal & (_numbered(equal, frames) <= left))
    return ~dropped & frames.real[..., None]


def ordered_bits(x: Num[Array, " *shape"]) -> UInt32[Array, " *shape"]:
    """Returns uint32 in the order of the given numbers; NaN comes last."""
    x = jnp.where(x == 0, 0, x.astype(jnp.float32))
    bits = jax.lax.bitcast_convert_type(jnp.where(jnp.isnan(x), jnp.nan, x), jnp.uint32)
    sign = jnp.uint32(1 << 31)
    return jnp.where(bits < sign, bits | sign, ~bits)


def thresholds(bits: jax.Array, frames: FrameTable) -> jax.Array:
    """Returns for each example the largest number that at most k scores lie below.

    Args:
      bits: (B, T, P) uint32.
      frames: the rows' frames.

    Returns:
      (B, M + 1) uint32.
    """

    def with_bit(number: jax.Array, found: jax.Array) -> jax.Array:
        higher = found | (jnp.uint32(1 << 31) >> number.astype(jnp.uint32))
        below = bits < of_frames(higher, frames)[..., None]
        return jnp.where(count(below, frames) <= frames.to_prune, higher, found)

    none = jnp.zeros(frames.to_prune.shape, jnp.uint32)
    limits: jax.Array = jax.lax.fori_loop(0, 32, with_bit, none)
    return limits


def of_frames(x: jax.Array, frames: FrameTable) -> jax.Array:
    """Gives each frame the value of its example: (B, M + 1) -> (B, T)."""
    return jnp.take_along_axis(x, frames.example, axis=1)


def count(mask: jax.Array, frames: FrameTable) -> jax.Array:
    """Counts the True entries of each example: (B, T, P) -> (B, M + 1) int32."""
    member = frames.example[:, None] == jnp.arange(frames.to_prune.shape[1])[:, None]
    return jnp.where(member, mask.sum(-1, dtype=jnp.int32)[:, None], 0).sum(-1)


def _numbered(mask: jax.Array, frames: FrameTable) -> jax.Array:
    """Numbers the True entries of each example from 1: (B, T, P) -> (B, T, P) int32."""
    counts = mask.sum(-1, dtype=jnp.int32)
    before_frame = jnp.cumsum(counts, axis=1) - counts
    # An example without frames may start behind the last frame.
    start = jnp.minimum(frames.start, counts.shape[1] - 1)
    before_example = jnp.take_along_axis(before_frame, start, axis=1)
    earlier = before_frame - of_frames(before_example, frames)
    return jnp.cumsum(mask, axis=-1, dtype=jnp.int32) + earlier[..., None]
