"""Rows of a batch: sizes of examples against a `Budget`, and joining examples to a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stts_jax.budget import (
    EXAMPLE_SUBSEGMENT_INCREMENT,
    Budget,
    MultimodalType,
    batch_arrays,
    tokens_to_prune,
)
from stts_jax.config import ModelConfig

if TYPE_CHECKING:  # it imports JAX, which processes that only read have no use for
    from stts_jax.batch import Batch

Arrays = Mapping[str, np.ndarray]

SIZES = ("frames", "patches", "visual", "visual_before", "tokens", "tokens_before")
_TEXT_ARRAYS = ("input_ids", "labels", "loss_masks", "position_ids")
_FEWER_FRAMES = "raise data.row_frames, or lower data.max_frames (for images data.max_crops)"
_LESS_TEXT = "raise data.row_text_tokens, or lower data.questions_per_video"
_REMEDIES = {
    "frames": _FEWER_FRAMES,
    "patches": _FEWER_FRAMES,
    "visual": _FEWER_FRAMES,
    "visual_before": _FEWER_FRAMES,
    "tokens": _LESS_TEXT,
    "tokens_before": _LESS_TEXT,
}


class BudgetError(ValueError):
    """An example that fits no row; the message says by how much and what to raise."""


def example_sizes(example: Arrays, model: ModelConfig) -> dict[str, int]:
    """Returns what an example uses of each of the `SIZES` of a budget.

    Args:
      example: the fields of a `Batch` by name, for it alone, without row axis and padding; a text
        may lack `images` and `token_pooling`.
      model: sizes and prune ratio; only videos are pruned.
    """
    frames, visual_before = _count(example, "images"), _count(example, "token_pooling")
    length = len(example["input_ids"])
    kind, pruned = _kind(example), 0
    if kind == MultimodalType.VIDEO:
        counts = np.array([frames], np.int32), np.array([kind], np.int32)
        pruned = int(tokens_to_prune(*counts, model.prune, model.tokens_per_frame)[0])
    return _sizes(frames, visual_before, length, pruned, model)


def row_sizes(batch: Batch, model: ModelConfig) -> dict[str, np.ndarray]:
    """Returns what each row of a batch uses, and the number of its `examples`.

    Args:
      batch: of NumPy arrays.
      model: sizes and prune ratio.

    Returns:
      (B,) int arrays for the `SIZES` and for `examples`.
    """
    kinds = batch.multimodal_type
    pruned = tokens_to_prune(batch.num_images, kinds, model.prune, model.tokens_per_frame)
    patch_token = model.llm.special_token("<im_patch>")
    sizes = _sizes(
        batch.num_images.clip(0).sum(1),
        (batch.text.input_ids == patch_token).sum(1),
        (batch.text.input_ids >= 0).sum(1),
        pruned.sum(1),
        model,
    )
    return {**sizes, "examples": (kinds >= 0).sum(1)}


@dataclass(frozen=True)
class Excess:
    """The size by which an example is too large for a row; as text, the end of a sentence.

    Attributes:
      key: one of `SIZES`.
      size: that it has.
      count: of these that are too many.
    """

    key: str
    size: int
    count: int

    @property
    def of_text(self) -> bool:
        """Whether less text makes it fit."""
        return self.key in ("tokens", "tokens_before")

    def __str__(self) -> str:
        label = self.key.replace("_before", " before pruning")
        return f"has {self.size} {label}, {self.count} more than a row holds"


def excess(sizes: Mapping[str, int], budget: Budget) -> Excess | None:
    """The first size of an example that is too large for a row; None if it fits on its own."""
    for key in SIZES:
        over = sizes[key] - getattr(budget, key)
        if over > 0:
            return Excess(key, sizes[key], over)
    return None


def require_fit(sizes: Mapping[str, int], budget: Budget, name: str) -> None:
    """Raise a `BudgetError` naming the example if it doesn't fit a row on its own."""
    if over := excess(sizes, budget):
        raise BudgetError(f"{name} {over}; {_REMEDIES[over.key]}")


def pack_row(examples: Sequence[Arrays], budget: Budget, model: ModelConfig) -> Batch:
    """Join examples to one row and pad it to the budget.

    Patch numbers move on by the patches of the examples before, subsegment ids by
    `EXAMPLE_SUBSEGMENT_INCREMENT` for each example; positions start at 0 in each. Padding is -1,
    but 0 in `images` and `loss_masks`. Texts have no frames, and images pool fewer patches into a
    token than videos, so their `token_pooling` is filled up with -1.
    Source: docs/reference.md#packer, `pack` of olmo/data/dynamic_packer.py.

    Args:
      examples: at most `budget.examples`, see `example_sizes`; one without `subsegment_ids` is all
        one segment. None makes an empty row.
      budget: of the row.
      model: sizes.

    Returns:
      The row, without the axis B of a `Batch`.

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
        count, pooled = _count(example, "images"), _count(example, "token_pooling")
        row["num_images"][e], row["multimodal_type"][e] = count, _kind(example)
        if count:
            row["images"][frames : frames + count] = example["images"]
            pooling = example["token_pooling"]
            shifted = np.where(pooling >= 0, pooling + frames * model.vit.patches, -1)
            row["token_pooling"][visual : visual + pooled, : pooling.shape[1]] = shifted
        text = slice(tokens, tokens + len(example["input_ids"]))
        for name in _TEXT_ARRAYS:
            row[name][text] = example[name]
        row["subsegment_ids"][text] = (
            example.get("subsegment_ids", 0) + e * EXAMPLE_SUBSEGMENT_INCREMENT
        )
        frames, visual, tokens = frames + count, visual + pooled, text.stop
    from stts_jax.batch import Batch

    return Batch.from_arrays(row)


def stack_rows(rows: Sequence[Batch]) -> Batch:
    """Stacks rows, at least one, to a batch: a new first axis on every array."""
    if not rows:
        raise ValueError("a batch has no rows; give at least one")
    arrays = [row.to_arrays() for row in rows]
    from stts_jax.batch import Batch

    return Batch.from_arrays({name: np.stack([row[name] for row in arrays]) for name in arrays[0]})


def _count(example: Arrays, name: str) -> int:
    return len(example[name]) if name in example else 0


def _kind(example: Arrays) -> MultimodalType:
    return MultimodalType(int(example["multimodal_type"][0]))


def _sizes(
    frames: int, visual_before: int, length: int, pruned: int, model: ModelConfig
) -> dict[str, int]:
    """Returns sizes of an example or, as arrays, of many; `pruned` pooled tokens are dropped."""
    patches_gone = pruned * model.prune.pooling**2 if model.prune.in_vit else 0
    return {
        "frames": frames,
        "patches": frames * model.vit.patches - patches_gone,
        "visual": visual_before - pruned,
        "visual_before": visual_before,
        "tokens": length - pruned,
        "tokens_before": length,
    }


def _require_room(examples: Sequence[Arrays], budget: Budget, model: ModelConfig) -> None:
    if len(examples) > budget.examples:
        raise BudgetError(
            f"{len(examples)} examples are more than the {budget.examples} that a row holds; raise "
            "data.row_examples"
        )
    entries = batch_arrays(budget, model, 1)["token_pooling"][0][-1]
    for example in examples:
        if _count(example, "token_pooling") and example["token_pooling"].shape[1] > entries:
            raise BudgetError(
                f"an example pools {example['token_pooling'].shape[1]} patches into a token, more "
                f"than the {entries} of the model; raise model.connector.image_pooling"
            )
    sizes = [example_sizes(example, model) for example in examples]
    total = {key: sum(size[key] for size in sizes) for key in SIZES}
    require_fit(total, budget, f"the row of {len(examples)} examples")
