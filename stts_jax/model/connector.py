"""The connector: from ViT features to the LLM's width.

Source: olmo/nn/vision_backbone.py; docs/reference.md#connector.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from stts_jax.attention import attention
from stts_jax.config import ModelConfig
from stts_jax.layers.mlp import SwiGluMlp
from stts_jax.layers.multi_head import MultiHeadAttention


class Connector(nnx.Module):
    """Attention pooling with the mean as query, then a SwiGLU projector."""

    def __init__(self, config: ModelConfig, *, key: jax.Array) -> None:
        pool_key, project_key = jax.random.split(key)
        connector = config.connector
        features = config.vit.width * len(config.vit.feature_layers)
        self.masked = connector.pooling_attention_mask
        self.pooler = MultiHeadAttention(
            features, connector.width, connector.heads, connector.head_dim, key=pool_key
        )
        self.projector = SwiGluMlp(
            connector.width, connector.mlp_width, config.llm.width, key=project_key
        )

    def __call__(
        self, windows: Float[Array, "B V G features"], filled: Bool[Array, "B V G"]
    ) -> Float[Array, "B V d"]:
        """Pools the patches of each visual token and projects.

        Args:
          windows: (B, V, G, features), zeros at empty window entries.
          filled: (B, V, G) bool, False at empty entries of windows smaller than G.

        Returns:
          (B, V, d); finite, if meaningless, for a window without any entry.
        """
        windows = windows * filled[..., None].astype(windows.dtype)
        count: int | jax.Array = windows.shape[-2]
        if self.masked:
            count = jnp.maximum(filled.sum(-1), 1)[..., None, None].astype(windows.dtype)
        query = windows.sum(-2, keepdims=True) / count
        mask = filled[..., None, :] if self.masked else None
        pooled = self.pooler(query, windows, lambda q, k, v: attention(q, k, v, mask=mask))
        return self.projector(pooled[..., 0, :])
