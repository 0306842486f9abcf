"""The auxiliary loss that teaches the scorer time: be redundant where the last frame looked alike.

Source: paper, auxiliary loss; olmo/nn/temporal_vision_backbone.py:111-131.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from stts_jax.pruning.cells import to_cells
from stts_jax.pruning.frames import FrameTable


def adjacent_similarity(x: jax.Array, pooling: int) -> jax.Array:
    """Cosine similarity of each token with the same place of the next frame.

    Only neighbouring frames are compared, so this costs T products where the reference forms a
    (T P) x (T P) matrix. Not detached: gradient reaches the ViT, as in the reference.

    Args:
      x: (B, T, N, D) patches after block `prune_at`.
      pooling: patches along a side of a cell.

    Returns:
      (B, T - 1, P) float32.
    """
    x = x.astype(jnp.float32)
    square = _cell_products(x, x, pooling)
    # max() inside the root: its gradient at 0 would be infinite. One root after the other: the
    # product of two such norms would underflow.
    inverse = jax.lax.rsqrt(jnp.maximum(square, 1e-24))
    return _cell_products(x[:, :-1], x[:, 1:], pooling) * inverse[:, :-1] * inverse[:, 1:]


def _cell_products(a: jax.Array, b: jax.Array, pooling: int) -> jax.Array:
    """Scalar product of each cell's patches: (B, T, N, D) of both -> (B, T, P).

    A dot for each patch, which XLA makes on a CPU in a twentieth of the time of a product and a
    sum; in full precision where a dot would have less by default.
    """
    products = jnp.einsum("btnd,btnd->btn", a, b, precision=jax.lax.Precision.HIGHEST)
    return to_cells(products[..., None], pooling).sum((-2, -1))


def compared_frames(frames: FrameTable) -> jax.Array:
    """(B, T - 1) float32, 1 for frames that the temporal loss compares with the one before."""
    return frames.prunable[:, 1:].astype(jnp.float32)


def temporal_loss(
    scores: jax.Array, x: jax.Array, frames: FrameTable, *, pooling: int, coefficient: float
) -> jax.Array:
    """Mean squared distance of score and dissimilarity to the frame before, times a coefficient.

    Frames that are not pruned don't count, nor does the first frame of a row. The first frame of
    a later video in the row is compared with the frame before it, as in the reference.

    Args:
      scores: (B, T, P).
      x: (B, T, N, D) patches after block `prune_at`.
      frames: the rows' frames.
      pooling: patches along a side of a cell.
      coefficient: weight.

    Returns:
      float32 scalar.
    """
    target = 1.0 - adjacent_similarity(x, pooling)
    counts = compared_frames(frames)
    squared = jnp.square(scores[:, 1:] - target).sum(-1)
    total = counts.sum() * scores.shape[-1]
    return coefficient * (squared * counts).sum() / jnp.maximum(total, 1.0)
