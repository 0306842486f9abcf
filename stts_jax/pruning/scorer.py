"""The scorer: rates every pooled token of every frame (olmo/nn/temporal_image_vit.py).

The score is used twice: it decides which tokens go (`selection`), and its logarithm biases one
attention layer, which is how the language model's gradient reaches it (`log_score_bias`).
"""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from stts_jax.config import ModelConfig
from stts_jax.layers.attention import attention
from stts_jax.layers.linear import Linear
from stts_jax.layers.multi_head import MultiHeadAttention
from stts_jax.pruning.cells import to_cells, to_patches
from stts_jax.pruning.frames import FrameTable


class TokenScorer(nnx.Module):
    """Attention pooling of each cell, then an MLP over previous and current frame."""

    def __init__(self, config: ModelConfig, *, key: jax.Array) -> None:
        vit = config.vit
        keys = jax.random.split(key, 4)
        self.pooling = config.prune.pooling
        self.pooler = MultiHeadAttention(vit.width, vit.width, vit.heads, vit.head_dim, key=keys[0])
        self.first = Linear(2 * vit.width, vit.mlp_width, axes=("embed", "mlp"), key=keys[1])
        self.second = Linear(vit.mlp_width, vit.mlp_width, axes=("mlp_in", "mlp"), key=keys[2])
        self.last = Linear(vit.mlp_width, 1, axes=("mlp", None), key=keys[3])

    def __call__(self, x: jax.Array) -> jax.Array:
        """Rate the tokens of all frames, also of images and padding.

        The previous frame is the one before in the row, whatever example it belongs to; weights
        were trained so. It only changes the score of an example's first frame, which neither
        selection nor bias uses. Rows don't see each other: a row's frame 0 follows zeros (the
        reference lets it follow the last frame of the row before).

        Args:
          x: (B, T, N, D) patches after block `prune_at`.

        Returns:
          (B, T, P) float32 in (0, 1), high for tokens to keep.
        """
        cells = to_cells(x, self.pooling)
        # Mean over all slots, empty ones included, and no mask: as weights were trained.
        query = cells.mean(axis=-2, keepdims=True)
        pooled = self.pooler(query, cells, partial(attention))[..., 0, :]
        previous = jnp.pad(pooled, ((0, 0), (1, 0), (0, 0), (0, 0)))[:, :-1]
        hidden = jnp.concatenate([previous, pooled], axis=-1)
        hidden = jax.nn.silu(self.first(hidden))
        hidden = jax.nn.silu(self.second(hidden))
        return jax.nn.sigmoid(self.last(hidden)[..., 0].astype(jnp.float32))


def log_score_bias(
    scores: jax.Array, frames: FrameTable, *, grid: int, pooling: int, minimum: float
) -> jax.Array:
    """The additive attention bias of each patch as a key (paper: log S).

    The scores of each row of cells are stretched to [minimum, 1] on their own, not per frame or
    video: surprising, but weights were trained with it (MODEL 3.3). First frames of videos and
    everything that is not pruned get no bias.

    Args:
      scores: (B, T, P) in (0, 1).
      frames: the rows' frames.
      grid: patches along a side of the frame.
      pooling: patches along a side of a cell.
      minimum: what the worst cell of a row of cells is stretched to.

    Returns:
      (B, T, N) float32, in [log(minimum), 0].
    """
    side = math.isqrt(scores.shape[-1])
    rows = scores.reshape(*scores.shape[:-1], side, side)
    low, high = rows.min(-1, keepdims=True), rows.max(-1, keepdims=True)
    stretched = minimum + (rows - low) * (1.0 - minimum) / (high - low + 1e-6)
    biased = (frames.prunable & ~frames.first)[..., None, None]
    bias = jnp.log(jnp.where(biased, stretched, 1.0)).reshape(scores.shape)
    return to_patches(bias, grid, pooling)
