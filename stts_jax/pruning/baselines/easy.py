"""Baseline `easy`: a token is redundant where it resembles the same token of the frame before.

Source: olmo/nn/temporal_image_vit.py, which crashes; this is what it was meant to do, with the
budget of each video as in the scorer path.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from stts_jax.pruning.baselines.inputs import BaselineInputs
from stts_jax.pruning.baselines.similarity import (
    PROTECTED_SIMILARITY,
    first_good_try,
    previous_frame,
    thresholds_to_try,
    unit_windows,
)


def scores(inputs: BaselineInputs) -> Float[Array, "B T P"]:
    """Returns (B, T, P) scores: minus the similarity, or `PROTECTED_SIMILARITY`.

    A frame whose mean similarity is below the threshold is protected as a whole.
    """
    frames = inputs.frames
    windows = unit_windows(inputs.x, inputs.pooling)
    similarity = (windows * previous_frame(windows)).sum(-1)
    thresholds = thresholds_to_try(inputs.threshold)
    protected = similarity.mean(-1) < thresholds[:, None, None]
    protected = (protected | frames.first)[..., None]
    scores = jnp.where(protected, PROTECTED_SIMILARITY, -similarity)
    return first_good_try(scores, frames, thresholds)
