"""Rows of examples that fill several budgets at once, by grain's packer.

Grain's packer puts examples in rows and sees to it that no budget is exceeded. It takes them in the
order in which they come, and lets all rows that are open go as soon as one example fits none of
them. So it is given one open row, and examples in an order that fills it (`lookahead`): that fills
rows better than dozens of open rows would, and what is kept in memory is examples, not rows.

On the academic video mixture (tests/academic_mixture.py) at 50 % pruning, in rows of 128 frames and
1800 tokens of text, used tokens of the LLM and pixels that are kept (a frame has 0.43 MB):

    first fit, 8 open rows     91.6 %    0.4 GB
    best fit, 8 open rows      91.7 %    0.4 GB
    first fit, 64 open rows    94.7 %    3.5 GB
    best fit, 64 open rows     94.8 %    3.5 GB
    looking ahead              96.9 %    0.6 GB
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grain
import numpy as np

from stts_jax.budget import Budget
from stts_jax.config import ModelConfig
from stts_jax.data.packing.lookahead import LookaheadIterDataset
from stts_jax.data.packing.rows import SIZES, pack_row, require_fit

# As many as wait in the reference's packer (docs/reference.md#packer). They hold 29 frames each on
# the average.
LOOKAHEAD = 48
_ITEM = "item"


def pack_examples(
    stream: grain.IterDataset, budget: Budget, model: ModelConfig, lookahead: int = LOOKAHEAD
) -> grain.IterDataset:
    """Rows of a budget, filled with examples.

    Its iterators can be saved and restored wherever those of `stream` can.

    Args:
      stream: of dicts with `example`, the arrays of one example, and `sizes`, see
        `rows.example_sizes`; errors call the example by `name`, if there is one.
      budget: of a row.
      model: sizes.
      lookahead: examples to choose from; their pixels are kept in memory.

    Returns:
      dataset of rows, see `rows.pack_row`.

    Raises:
      BudgetError: while iterating, if an example fits no row.
    """
    limits = {key: getattr(budget, key) for key in SIZES}

    def checked(item: dict[str, Any]) -> dict[str, Any]:
        require_fit(item["sizes"], budget, item.get("name", "an example"))
        return item

    groups = group_examples(stream.map(checked), limits, budget.examples, lookahead)
    return groups.map(lambda group: pack_row([item["example"] for item in group], budget, model))


def group_examples(
    stream: grain.IterDataset,
    limits: Mapping[str, int],
    max_examples: int,
    lookahead: int = LOOKAHEAD,
) -> grain.IterDataset:
    """Lists of examples that go into a row together.

    Args:
      stream: of dicts with `sizes`, what the example takes of each of `limits`.
      limits: the budgets of a row.
      max_examples: that a row may hold.
      lookahead: examples to choose from.

    Returns:
      dataset of lists of the dicts.
    """
    if max_examples == 1:
        return stream.map(lambda item: [item])
    ordered = LookaheadIterDataset(
        stream, limits=limits, max_examples=max_examples, lookahead=lookahead
    )
    rows = grain.experimental.FirstFitPackIterDataset(
        ordered.map(lambda item: {**_lengths(item["sizes"], limits), _ITEM: item}),
        length_struct=dict(limits),
        num_packing_bins=1,
        meta_features=(_ITEM,),
        shuffle_bins=False,
        max_sequences_per_bin=max_examples,
    )
    return rows.map(lambda row: row[_ITEM])


def _lengths(sizes: Mapping[str, int], limits: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Sizes in the form that the packer understands: arrays of that length."""
    return {key: np.empty(int(sizes[key]), np.bool_) for key in limits}
