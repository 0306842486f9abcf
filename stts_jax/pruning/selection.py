"""Which pooled tokens stay: exactly k of every video go, the lowest-rated first."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from stts_jax.parallel.mesh import share_rows
from stts_jax.pruning.frames import FrameTable

# Rating of tokens that go only if nothing else is left (reference: 100).
UNTOUCHABLE = 100.0


def protect_first_frames(ratings: jax.Array, frames: FrameTable) -> jax.Array:
    """Rate the tokens of first frames above all others: (B, T, P) -> (B, T, P)."""
    return jnp.where(frames.first[..., None], UNTOUCHABLE, ratings)


def select(ratings: jax.Array, frames: FrameTable) -> jax.Array:
    """Drop the k lowest-rated tokens of each video; of equal ones, the earlier go first.

    Nothing is sorted. A video's tokens go up to the rating that k of them lie below, which is
    found bit by bit, for all videos of all rows at once, by counting 32 times. To sort 384 frames
    took XLA:CPU eleven times as long, and a TPU's compiler over 20 seconds.

    Args:
      ratings: (B, T, P), high for tokens to keep. No gradient passes.
      frames: the rows' frames, with k of each example.

    Returns:
      (B, T, P) bool, True for tokens that stay; True in everything that is not pruned, False in
      padding frames.
    """
    ratings = share_rows(ordered_bits(jax.lax.stop_gradient(ratings)))
    limits = _limits(ratings, frames)
    limit = _of_frames(limits, frames)[..., None]
    below, equal = ratings < limit, ratings == limit
    # Of those that are rated just so, as many go as are still to go.
    left = _of_frames(frames.to_prune - _count(below, frames), frames)[..., None]
    goes = below | (equal & (_numbered(equal, frames) <= left))
    return ~goes & frames.real[..., None]


def ordered_bits(x: jax.Array) -> jax.Array:
    """uint32 that are in the order of the given numbers; NaN comes last."""
    x = jnp.where(x == 0, 0, x.astype(jnp.float32))
    bits = jax.lax.bitcast_convert_type(jnp.where(jnp.isnan(x), jnp.nan, x), jnp.uint32)
    sign = jnp.uint32(1 << 31)
    return jnp.where(bits < sign, bits | sign, ~bits)


def _limits(ratings: jax.Array, frames: FrameTable) -> jax.Array:
    """Of each example, the largest number that at most k ratings lie below.

    Args:
      ratings: (B, T, P) uint32.
      frames: the rows' frames.

    Returns:
      (B, M + 1) uint32.
    """

    def with_bit(number: jax.Array, limits: jax.Array) -> jax.Array:
        higher = limits | (jnp.uint32(1 << 31) >> number.astype(jnp.uint32))
        below = ratings < _of_frames(higher, frames)[..., None]
        return jnp.where(_count(below, frames) <= frames.to_prune, higher, limits)

    none = jnp.zeros(frames.to_prune.shape, jnp.uint32)
    limits: jax.Array = jax.lax.fori_loop(0, 32, with_bit, none)
    return limits


def _of_frames(x: jax.Array, frames: FrameTable) -> jax.Array:
    """Of each frame what its example has: (B, M + 1) -> (B, T)."""
    return jnp.take_along_axis(x, frames.example, axis=1)


def _count(mask: jax.Array, frames: FrameTable) -> jax.Array:
    """(B, T, P) -> (B, M + 1) int32, how many are True in each example."""
    member = frames.example[:, None] == jnp.arange(frames.to_prune.shape[1])[:, None]
    return jnp.where(member, mask.sum(-1, dtype=jnp.int32)[:, None], 0).sum(-1)


def _numbered(mask: jax.Array, frames: FrameTable) -> jax.Array:
    """(B, T, P) -> (B, T, P) int32, 1 for the first True of each example, 2 for the next."""
    counts = mask.sum(-1, dtype=jnp.int32)
    before_frame = jnp.cumsum(counts, axis=1) - counts
    # Where an example would begin behind the last frame, it has none.
    start = jnp.minimum(frames.start, counts.shape[1] - 1)
    before_example = jnp.take_along_axis(before_frame, start, axis=1)
    earlier = before_frame - _of_frames(before_example, frames)
    return jnp.cumsum(mask, axis=-1, dtype=jnp.int32) + earlier[..., None]
