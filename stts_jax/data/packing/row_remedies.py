"""Remedies for an example that fits no row, found by trying each change on the budget."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from stts_jax.budget import row_budget
from stts_jax.config import DataConfig, ModelConfig
from stts_jax.data.packing.rows import excess

# Rows are made at most that many times as large, in steps of that part of them.
LARGEST_FACTOR, STEPS = 16, 8


def remedy(
    sizes: Mapping[str, int],
    model: ModelConfig,
    data: DataConfig,
    with_crops: Callable[[int], Mapping[str, int]] | None = None,
) -> str:
    """The settings that make room for an example, any of which will do.

    Args:
      sizes: of the example, see `rows.example_sizes`.
      model: sizes and prune ratio.
      data: settings under which it fits no row.
      with_crops: sizes of the example with so many `data.max_crops`, if it shows pictures.
    """
    found = []
    if with_crops is not None:
        fewer = range(data.max_crops - 1, 0, -1)
        crops = (count for count in fewer if _fits(with_crops(count), model, data))
        found += [f"lower data.max_crops to {count}" for count in itertools.islice(crops, 1)]
    larger = (c for c in _larger_rows(sizes, model, data) if _fits(sizes, model, _with(data, c)))
    for change in itertools.islice(larger, 1):
        found.append("raise " + " and ".join(f"data.{k} to {v}" for k, v in change.items()))
    over = excess(sizes, row_budget(model, data))
    if not found or (over and over.of_text):
        found.append("shorten it" if found else "leave it out")
    return ", or ".join(found)


def _larger_rows(
    sizes: Mapping[str, int], model: ModelConfig, data: DataConfig
) -> Iterator[dict[str, int]]:
    """Changes that make rows larger, those that cost least first."""
    least, step = max(data.row_frames, sizes["frames"]), max(data.row_frames // STEPS, 1)
    for frames in range(least, LARGEST_FACTOR * data.row_frames + 1, step):
        # What a row holds after the prune grows with its videos, each of max_frames at most.
        videos = max(data.row_examples, math.ceil(frames / data.max_frames))
        for examples in dict.fromkeys((data.row_examples, videos)):
            change = {"row_frames": frames, "row_examples": examples}
            budget = row_budget(model, _with(data, change))
            text = max(
                sizes["tokens"] - budget.visual, sizes["tokens_before"] - budget.visual_before
            )
            change["row_text_tokens"] = max(text, data.row_text_tokens)
            yield {name: new for name, new in change.items() if new != getattr(data, name)}


def _with(data: DataConfig, change: Mapping[str, Any]) -> DataConfig:
    return dataclasses.replace(data, **change)


def _fits(sizes: Mapping[str, int], model: ModelConfig, data: DataConfig) -> bool:
    return excess(sizes, row_budget(model, data)) is None
