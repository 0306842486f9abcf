"""Rows of a batch: how much of a `Budget` an example takes, and examples joined to a row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stts_jax.budget import Budget, batch_arrays, tokens_to_prune
from stts_jax.config import ModelConfig
from stts_jax.data.preprocess import ExampleArrays

SUBSEGMENTS_PER_EXAMPLE = 100000
SIZES = ("frames", "patches", "visual", "visual_before", "tokens", "tokens_before")
_TEXT_ARRAYS = ("input_ids", "labels", "loss_masks", "position_ids", "subsegment_ids")
_REMEDIES = {
    "frames": "raise data.row_frames or lower data.max_frames",
    "patches": "raise data.row_frames or lower data.max_frames",
    "visual": "raise data.row_frames or lower data.max_frames",
    "visual_before": "raise data.row_frames or lower data.max_frames",
    "tokens": "raise data.row_text_tokens or lower data.questions_per_video",
    "tokens_before": "raise data.row_text_tokens or lower data.questions_per_video",
}


class BudgetError(ValueError):
    """An example that fits no row; the message says by how much and what to raise."""


def example_sizes(example: ExampleArrays, model: ModelConfig) -> dict[str, int]:
    """What an example takes of each of the `SIZES` of a budget."""
    frames, visual_before = len(example["images"]), len(example["token_pooling"])
    pruned = tokens_to_prune(
        example["num_images"], example["multimodal_type"], model.prune, model.tokens_per_frame
    )
    visual = visual_before - int(pruned.sum())
    patches = frames * model.vit.patches
    if model.prune.pruning_in_scorer:
        patches -= int(pruned.sum()) * model.prune.pooling**2
    length = len(example["input_ids"])
    return {
        "frames": frames,
        "patches": patches,
        "visual": visual,
        "visual_before": visual_before,
        "tokens": length - int(pruned.sum()),
        "tokens_before": length,
    }


def require_fit(sizes: dict[str, int], budget: Budget, name: str) -> None:
    """Raise a `BudgetError` naming the example if it doesn't fit a row on its own."""
    for key in SIZES:
        over = sizes[key] - getattr(budget, key)
        if over > 0:
            label = key.replace("_before", " before pruning")
            raise BudgetError(
                f"{name} has {sizes[key]} {label}, {over} more than a row holds; {_REMEDIES[key]}"
            )


def pack_row(
    examples: Sequence[ExampleArrays], budget: Budget, model: ModelConfig
) -> dict[str, np.ndarray]:
    """Join examples to one row and pad it to the budget.

    Patch numbers move on by the patches of the examples before, subsegment ids by 100000 for each
    example; positions start anew in each. Padding is -1, but 0 in `images` and `loss_masks`.

    Args:
      examples: at most `budget.examples`, see `Preprocessor.training`; none makes an empty row.
      budget: of the row.
      model: sizes.

    Returns:
      The arrays of `budget.batch_arrays` without the row axis.

    Raises:
      BudgetError: if they don't fit.
    """
    _require_room(examples, budget, model)
    row = {
        name: np.full(shape[1:], 0 if name in ("images", "loss_masks") else -1, dtype)
        for name, (shape, dtype) in batch_arrays(budget, model, 1).items()
    }
    frames = visual = tokens = 0
    for e, example in enumerate(examples):
        count, pooled, length = (
            len(example[name]) for name in ("images", "token_pooling", "input_ids")
        )
        row["images"][frames : frames + count] = example["images"]
        row["num_images"][e] = example["num_images"][0]
        row["multimodal_type"][e] = example["multimodal_type"][0]
        pooling = example["token_pooling"]
        shifted = np.where(pooling >= 0, pooling + frames * model.vit.patches, -1)
        row["token_pooling"][visual : visual + pooled] = shifted
        for name in _TEXT_ARRAYS:
            row[name][tokens : tokens + length] = example[name]
        row["subsegment_ids"][tokens : tokens + length] += e * SUBSEGMENTS_PER_EXAMPLE
        frames, visual, tokens = frames + count, visual + pooled, tokens + length
    return row


def stack_rows(rows: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Rows to a batch, a new first axis on every array."""
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _require_room(examples: Sequence[ExampleArrays], budget: Budget, model: ModelConfig) -> None:
    if len(examples) > budget.examples:
        raise BudgetError(
            f"{len(examples)} examples are more than the {budget.examples} that a row holds; raise "
            "data.row_examples"
        )
    sizes = [example_sizes(example, model) for example in examples]
    total = {key: sum(size[key] for size in sizes) for key in SIZES}
    require_fit(total, budget, f"the row of {len(examples)} examples")
