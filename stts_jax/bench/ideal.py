"""Ideal FLOPs of the parts, with attention within each frame's kept patches."""

from __future__ import annotations

import numpy as np

from stts_jax.budget import Budget
from stts_jax.config import Config
from stts_jax.training.flops import attention_flops, forward_flops, training_flops

VIT = ("vit_before", "scorer", "vit_after")


def part_flops(config: Config, budget: Budget, kept: np.ndarray) -> dict[str, float]:
    """Returns the FLOPs of each part of `programs`, as few as the mathematics needs.

    What is made a second time to save memory isn't counted, and no score between frames is.

    Args:
      config: of the run.
      budget: of the row.
      kept: (T,) patches that each frame keeps.
    """
    model = config.model
    forward = forward_flops(model, budget)
    vit = model.vit
    blocks = vit.depth - model.dense_blocks
    counted = attention_flops(model, budget).get("vit_after", 0.0)
    own = blocks * 4.0 * float((kept.astype(float) ** 2).sum()) * vit.heads * vit.head_dim
    # Counted there as if all frames kept alike.
    excess = counted - own if config.model.prune.method != "none" else 0.0
    step = training_flops(config, budget, 1).model
    return {
        "vit": sum(forward.get(name, 0.0) for name in VIT) - excess,
        "prefill": forward["llm"],
        "forward": sum(forward.values()) - excess,
        "step": step - 3 * excess,
    }
