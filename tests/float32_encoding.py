"""Runs the ViT of a batch in float32, whatever a platform computes in."""

from __future__ import annotations

import jax

from stts_jax.batch import Batch
from stts_jax.budget import Budget
from stts_jax.config import ModelConfig, replace
from stts_jax.model.vision import VisionEncoder, VisionOutput
from stts_jax.model.vit import VisionTransformer
from stts_jax.pruning.scorer import TokenScorer


def encode(
    vit: VisionTransformer,
    scorer: TokenScorer | None,
    batch: Batch,
    budget: Budget,
    config: ModelConfig,
    key: jax.Array,
) -> VisionOutput:
    """Returns what `VisionEncoder` makes of a batch."""
    return VisionEncoder(vit, scorer, replace(config, {"compute_dtype": "float32"}))(
        batch, budget, key=key
    )
