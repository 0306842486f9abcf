"""Baseline `heuristic`: a token is redundant where it resembles the last different content there.

Source: paper 5.1; olmo/nn/temporal_image_vit.py, which crashes; this is what it was
meant to do, with the budget of each video as in the scorer path.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from stts_jax.pruning.baselines.inputs import BaselineInputs
from stts_jax.pruning.baselines.similarity import (
    PROTECTED_SIMILARITY,
    first_good_try,
    thresholds_to_try,
    unit_windows,
)


def scores(inputs: BaselineInputs) -> Float[Array, "B T P"]:
    """Returns (B, T, P) scores: minus the similarity, or `PROTECTED_SIMILARITY`.

    Every window of the grid has a reference token, at first that of the video's first frame. A
    frame whose mean similarity to the references is below the threshold is protected and becomes
    the reference; otherwise only the windows that fall below it take the frame's token.
    """
    frames = inputs.frames
    windows = unit_windows(inputs.x, inputs.pooling)
    over_time = (jnp.moveaxis(windows, 1, 0), jnp.moveaxis(frames.first, 1, 0))
    thresholds = thresholds_to_try(inputs.threshold)

    def scores_with(threshold: jax.Array) -> jax.Array:
        def step(
            reference: jax.Array, frame: tuple[jax.Array, jax.Array]
        ) -> tuple[jax.Array, jax.Array]:
            tokens, first = frame
            similarity = (tokens * reference).sum(-1)
            protected = (similarity.mean(-1, keepdims=True) < threshold) | first[:, None]
            renewed = protected | (similarity < threshold)
            scores = jnp.where(protected, PROTECTED_SIMILARITY, -similarity)
            return jnp.where(renewed[..., None], tokens, reference), scores

        _, scores = jax.lax.scan(step, jnp.zeros_like(windows[:, 0]), over_time)
        return jnp.moveaxis(scores, 0, 1)

    return first_good_try(jax.lax.map(scores_with, thresholds), frames, thresholds)
