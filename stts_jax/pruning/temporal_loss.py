"""The temporal loss: a score should be low where the previous frame looked the same.

Source: paper 3.4; olmo/nn/temporal_vision_backbone.py:111-131.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from stts_jax.pruning.frames import FrameTable
from stts_jax.pruning.pooling_windows import to_windows


def adjacent_similarity(x: Float[Array, "B T N D"], pooling: int) -> Float[Array, "B T-1 P"]:
    """Returns the cosine similarity of each token with the same token of the next frame.

    Only neighbouring frames are compared, so this costs T products where the reference forms a
    (T P) x (T P) matrix. Not detached: gradient reaches the ViT, as in the reference.

    Args:
      x: (B, T, N, D) patches after block l (`prune_at`).
      pooling: side w of a pooling window in patches.

    Returns:
      (B, T - 1, P) float32.
    """
    x = x.astype(jnp.float32)
    square = _window_products(x, x, pooling)
    # The maximum is taken before the root, whose gradient at 0 is infinite; and each norm is
    # inverted on its own, as the product of two small norms underflows.
    inverse = jax.lax.rsqrt(jnp.maximum(square, 1e-24))
    return _window_products(x[:, :-1], x[:, 1:], pooling) * inverse[:, :-1] * inverse[:, 1:]


def _window_products(a: jax.Array, b: jax.Array, pooling: int) -> jax.Array:
    """Returns the dot product of each window's patches: (B, T, N, D) of both -> (B, T, P).

    One dot product for each patch, in full precision also where a dot product has less by default.
    XLA:CPU takes twenty times as long for a product followed by a sum.
    """
    products = jnp.einsum("btnd,btnd->btn", a, b, precision=jax.lax.Precision.HIGHEST)
    return to_windows(products[..., None], pooling).sum((-2, -1))


def compared_frames(frames: FrameTable) -> Float[Array, "B compared"]:
    """Returns (B, T - 1) float32, 1 for frames that are compared with the frame before."""
    return frames.prunable[:, 1:].astype(jnp.float32)


def temporal_loss(
    scores: Float[Array, "B T P"],
    x: Float[Array, "B T N D"],
    frames: FrameTable,
    *,
    pooling: int,
    coefficient: float,
) -> Float[Array, ""]:
    """Returns the mean squared error of the scores against the dissimilarity to the frame before.

    Frames that are not pruned don't count, nor does the first frame of a row. The first frame of
    a later video in the row is compared with the frame before it, as in the reference.

    Args:
      scores: (B, T, P).
      x: (B, T, N, D) patches after block l (`prune_at`).
      frames: the rows' frames.
      pooling: side w of a pooling window in patches.
      coefficient: weight of the loss, multiplied in.

    Returns:
      float32 scalar.
    """
    target = 1.0 - adjacent_similarity(x, pooling)
    counts = compared_frames(frames)
    squared = jnp.square(scores[:, 1:] - target).sum(-1)
    total = counts.sum() * scores.shape[-1]
    return coefficient * (squared * counts).sum() / jnp.maximum(total, 1.0)
