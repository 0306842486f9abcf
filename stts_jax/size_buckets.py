"""Size buckets: ratios that programs are compiled for, so that any other ratio uses one of them.

How many tokens a video keeps at a ratio is known before the forward pass. The sizes of a program
are those of the bucket, the nearest ratio that keeps at least as many; how many tokens each video
loses is data (`Batch.to_prune`). What a bucket has too much is padding, which changes no result.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from stts_jax.batch import Batch
from stts_jax.budget import tokens_to_prune
from stts_jax.config import ModelConfig

# Drops tokens, and has room for all: the bucket of ratios between 0 and the next one.
SMALLEST_RATIO = 2.0**-20
# A program has at most a third more visual tokens than a ratio keeps, up to 92.5 %.
RATIOS = (
    *(0.0, SMALLEST_RATIO, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7),
    *(0.75, 0.8, 0.85, 0.875, 0.9, 0.925, 0.95, 0.975),
)


def bucket_of(ratio: float) -> float:
    """Returns the ratio that a program for `ratio` is compiled for, the highest not above it."""
    return max(bucket for bucket in RATIOS if bucket <= ratio)


def at_bucket(model: ModelConfig) -> ModelConfig:
    """Returns the configuration that a program for a model's ratio is compiled for."""
    prune = dataclasses.replace(model.prune, topk=bucket_of(model.prune.topk))
    return dataclasses.replace(model, prune=prune)


def with_counts(batch: Batch, model: ModelConfig) -> Batch:
    """Returns a batch of NumPy arrays that says how many tokens each example loses.

    Args:
      batch: see `Batch`.
      model: its ratio decides.
    """
    counts = tokens_to_prune(
        batch.num_images, batch.multimodal_type, model.prune, model.tokens_per_frame
    )
    return dataclasses.replace(batch, to_prune=counts.astype(np.int32))
