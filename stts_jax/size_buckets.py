"""Size buckets: ratios that programs are compiled for, so that any other ratio uses one of them.

How many tokens a video keeps at a ratio is known before the forward pass. The sizes of a program
are those of the bucket, the nearest ratio that keeps at least as many; how many tokens each video
loses is data (`Batch.to_prune`). What a bucket has too much is padding, which changes no result.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from stts_jax.batch import Batch
from stts_jax.budget import Budget, tokens_to_prune
from stts_jax.config import ModelConfig

# Drops tokens, and has room for all: the bucket of ratios between 0 and the next one.
SMALLEST_RATIO = 2.0**-20
# A program has at most a third more visual tokens than a ratio keeps, up to 92.5 %.
RATIOS = (
    *(0.0, SMALLEST_RATIO, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7),
    *(0.75, 0.8, 0.85, 0.875, 0.9, 0.925, 0.95, 0.975),
)
# Size buckets within one program, which compiles the blocks after the drop for each: a short list.
ADAPTIVE_RATIOS = (0.9, 0.8, 0.65, 0.5, 0.3, 0.0)
# Room for text grows in buckets, steps of this and, beyond four of them, of a half or a third, so
# that questions of other lengths and like sets compile to the same shapes.
TEXT_STEP = 64


def text_room(tokens: int) -> int:
    """Returns the bucket that holds so many tokens: 64, 128, 192, 256, 384, 512, 768, ..."""
    step = TEXT_STEP
    while tokens > 4 * step:
        step *= 2
    return max(1, -(-tokens // step)) * step


def bucket_of(ratio: float) -> float:
    """Returns the ratio that a program for `ratio` is compiled for, the highest not above it."""
    return max(bucket for bucket in RATIOS if bucket <= ratio)


def at_bucket(model: ModelConfig) -> ModelConfig:
    """Returns the configuration that a program for a model's ratio is compiled for.

    Where a threshold on scores decides what stays, it has room for all.
    """
    bucket = SMALLEST_RATIO if model.prune.threshold else bucket_of(model.prune.topk)
    prune = dataclasses.replace(model.prune, topk=bucket)
    return dataclasses.replace(model, prune=prune)


def without_ratio(model: ModelConfig) -> ModelConfig:
    """Returns the configuration of programs that read no video, one for all ratios of a model."""
    prune = dataclasses.replace(model.prune, topk=0.0, threshold=0.0)
    return dataclasses.replace(model, prune=prune)


def adaptive_budgets(budget: Budget, patches: int) -> tuple[Budget, ...]:
    """Returns budgets of ascending size, of which a program with a threshold uses the smallest.

    Args:
      budget: of a row of which nothing is dropped.
      patches: N.
    """
    kept = [1 - ratio for ratio in ADAPTIVE_RATIOS]
    visual = [math.ceil(share * budget.visual_before) for share in kept]
    return tuple(
        dataclasses.replace(
            budget,
            patches=math.ceil(share * budget.frames * patches),
            visual=count,
            tokens=count + budget.text,
        )
        for share, count in zip(kept, visual, strict=True)
    )


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
