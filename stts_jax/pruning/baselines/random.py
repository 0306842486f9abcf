"""Baseline `random`: uniform scores.

Source: olmo/nn/temporal_image_vit.py. First frames are not protected, as there.
"""

from __future__ import annotations

import jax
from jaxtyping import Array, Float

from stts_jax.pruning.baselines.inputs import BaselineInputs
from stts_jax.pruning.pooling_windows import windows_per_frame


def scores(inputs: BaselineInputs) -> Float[Array, "B T P"]:
    """Returns (B, T, P) uniform scores in [0, 1)."""
    rows, frames, patches, _ = inputs.x.shape
    shape = (rows, frames, windows_per_frame(patches, inputs.pooling))
    return jax.random.uniform(inputs.key, shape)
