"""Baseline `evs`, Efficient Video Sampling: a token is as important as it differs from the last.

It has no parameters and is meant for models that were trained without it. As there, tokens go after
the ViT, whose blocks run on every patch: only the LLM gets shorter. There it compares tokens as the
LLM gets them; here their patches as the connector gets them, so that the connector runs on what
stays.

Source: arXiv 2510.14624; vllm/multimodal/evs.py, `compute_retention_mask`. How many tokens stay is
the budget's matter here; of equal tokens the earlier go first, there the later. There a first frame
always stays whole; here it loses what a budget asks for beyond all other frames, unless
`model.prune.protect_first_frame` is set.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from stts_jax.pruning.baselines.inputs import BaselineInputs
from stts_jax.pruning.baselines.similarity import previous_frame, unit_windows

# No token differs from another by more than 2, but for rounding.
FIRST_FRAME = 2.5


def scores(inputs: BaselineInputs) -> Float[Array, "B T P"]:
    """Returns (B, T, P) scores: 1 - cosine to the same window one frame before.

    Those of a video's first frame are `FIRST_FRAME`.
    """
    windows = unit_windows(inputs.hidden, inputs.pooling)
    difference = 1.0 - (windows * previous_frame(windows)).sum(-1)
    return jnp.where(inputs.frames.first[..., None], FIRST_FRAME, difference)
