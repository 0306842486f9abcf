"""Which pooled tokens stay: exactly k of every video go, the lowest-rated first."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from stts_jax.pruning.frames import FrameTable

# Rating of tokens that go only if nothing else is left (reference: 100).
UNTOUCHABLE = 100.0


def protect_first_frames(ratings: jax.Array, frames: FrameTable) -> jax.Array:
    """Rate the tokens of first frames above all others: (B, T, P) -> (B, T, P)."""
    return jnp.where(frames.first[..., None], UNTOUCHABLE, ratings)


def select(ratings: jax.Array, frames: FrameTable) -> jax.Array:
    """Drop the k lowest-rated tokens of each video; of equal ones, the earlier go first.

    One stable sort per row by (example, rating) ranks every token within its own example, for any
    number of examples in the row.

    Args:
      ratings: (B, T, P), high for tokens to keep. No gradient passes.
      frames: the rows' frames, with k of each example.

    Returns:
      (B, T, P) bool, True for tokens that stay; True in everything that is not pruned, False in
      padding frames.
    """
    rows, count, tokens = ratings.shape
    total = count * tokens
    example = jnp.repeat(frames.example, tokens, axis=1)
    index = jnp.broadcast_to(jnp.arange(total, dtype=jnp.int32), (rows, total))
    flat = jax.lax.stop_gradient(ratings).reshape(rows, total)
    example, _, order = jax.lax.sort((example, flat, index), num_keys=2, is_stable=True)
    rank = index - jnp.take_along_axis(frames.start, example, axis=1) * tokens
    stays = rank >= jnp.take_along_axis(frames.to_prune, example, axis=1)
    keep = jax.vmap(lambda places, value: jnp.zeros(total, bool).at[places].set(value))(
        order, stays
    )
    return keep.reshape(ratings.shape) & frames.real[..., None]
