"""The scorer: a score for every pooled token of every frame.

The score is used twice: it decides which tokens go (`selection`), and its logarithm biases one
attention layer, which is how the language model's gradient reaches the scorer (`score_bias`).

Source: paper 3.1; olmo/nn/temporal_image_vit.py.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from stts_jax.attention import attention
from stts_jax.layers.linear import Linear
from stts_jax.layers.multi_head import MultiHeadAttention
from stts_jax.pruning.pooling_windows import to_windows


class TokenScorer(nnx.Module):
    """Attention pooling of each window, then an MLP over the previous and the current frame."""

    def __init__(
        self,
        *,
        width: int,
        heads: int,
        head_dim: int,
        mlp_width: int,
        pooling: int,
        key: jax.Array,
    ) -> None:
        """Initialises the parameters.

        Args:
          width: D of the ViT.
          heads: of the attention that pools a window.
          head_dim: width of each of them.
          mlp_width: of both hidden layers.
          pooling: side w of a pooling window in patches.
          key: random key.
        """
        keys = jax.random.split(key, 4)
        self.pooling = pooling
        self.pooler = MultiHeadAttention(width, width, heads, head_dim, key=keys[0])
        self.first = Linear(2 * width, mlp_width, axes=("embed", "mlp"), key=keys[1])
        self.second = Linear(mlp_width, mlp_width, axes=("mlp_in", "mlp"), key=keys[2])
        self.last = Linear(mlp_width, 1, axes=("mlp", None), key=keys[3])

    def __call__(self, x: Float[Array, "B T N D"]) -> Float[Array, "B T P"]:
        """Scores the pooled tokens of all frames, also of images and padding.

        The previous frame is the one before in the row, whatever example it belongs to; weights
        were trained so. It only changes the score of an example's first frame, which neither
        selection nor bias uses. Rows don't see each other: a row's frame 0 follows zeros (the
        reference lets it follow the last frame of the row before).

        Args:
          x: (B, T, N, D) patches after block l (`prune_at`).

        Returns:
          (B, T, P) float32 in (0, 1), high for tokens to keep.
        """
        windows = to_windows(x, self.pooling)
        # Mean over all window entries, empty ones included, and no mask: as weights were trained.
        query = windows.mean(axis=-2, keepdims=True)
        pooled = self.pooler(query, windows, attention)[..., 0, :]
        previous = jnp.pad(pooled, ((0, 0), (1, 0), (0, 0), (0, 0)))[:, :-1]
        hidden = jnp.concatenate([previous, pooled], axis=-1)
        hidden = jax.nn.silu(self.first(hidden))
        hidden = jax.nn.silu(self.second(hidden))
        return jax.nn.sigmoid(self.last(hidden)[..., 0].astype(jnp.float32))
