"""Rows of a run over several ratios: each is filled to the budget of its step's ratio.

The rows of a part of the stream go to the steps in order, so many to each, and so the ratio of a
row is known before it is packed. An example fits a row of every ratio (`reader`), so that none
waits for a ratio that takes it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grain
import numpy as np

from stts_jax.batch import Batch
from stts_jax.data.packing.grouping import LOOKAHEAD
from stts_jax.data.packing.lookahead import Item, LookaheadIterator
from stts_jax.data.packing.row_choice import choose_examples, example_values
from stts_jax.data.packing.rows import SIZES, example_sizes, pack_row
from stts_jax.train_ratios import StepSizes


@dataclass(frozen=True)
class RowNumbers:
    """Says which step takes a row.

    Attributes:
      rows: of this part of the stream in each batch.
      first_step: step of the stream's first batch.
    """

    rows: int
    first_step: int = 0


def pack_ratio_rows(
    stream: grain.IterDataset, sizes: StepSizes, numbers: RowNumbers, lookahead: int = LOOKAHEAD
) -> grain.IterDataset:
    """Rows of the budgets of their steps' ratios, filled with examples.

    Args:
      stream: see `grouping.pack_examples`.
      sizes: of the rows of each step.
      numbers: which step takes a row.
      lookahead: examples to choose from.

    Returns:
      dataset of rows, see `rows.pack_row`. Their arrays have the same shapes at all ratios.

    Raises:
      BudgetError: while iterating, if an example doesn't fit a row of every ratio.
    """

    def measured(item: Item) -> Item:
        by_ratio = {r: example_sizes(item["example"], model) for r, model in sizes.models.items()}
        return {
            **item,
            "sizes": {_name(r, key): by_ratio[r][key] for r in by_ratio for key in SIZES},
        }

    def packed(row: _Row) -> Batch:
        examples = [item["example"] for item in row.items]
        return pack_row(examples, sizes.budgets[row.ratio], sizes.models[row.ratio])

    return _RatioRowsIterDataset(stream.map(measured), sizes, numbers, lookahead).map(packed)


def _name(ratio: float, key: str) -> str:
    return f"{key} at {100 * ratio:g} %"


@dataclass(frozen=True)
class _Row:
    """The examples of a row, and the ratio of its step."""

    ratio: float
    items: list[Item]


class _RatioRowsIterDataset(grain.IterDataset):
    def __init__(
        self, parent: grain.IterDataset, sizes: StepSizes, numbers: RowNumbers, lookahead: int
    ) -> None:
        super().__init__(parent)
        self._make: Callable[[grain.DatasetIterator], grain.DatasetIterator] = lambda parent: (
            _RatioRowsIterator(parent, sizes, numbers, lookahead)
        )

    def __iter__(self) -> grain.DatasetIterator:
        return self._make(self._parent.__iter__())


class _RatioRowsIterator(LookaheadIterator):
    """Chooses waiting examples for whole rows; its state has the row's number beside theirs."""

    def __init__(
        self,
        parent: grain.DatasetIterator,
        sizes: StepSizes,
        numbers: RowNumbers,
        lookahead: int,
    ) -> None:
        limits = {
            _name(ratio, key): getattr(budget, key)
            for ratio, budget in sizes.budgets.items()
            for key in SIZES
        }
        examples = next(iter(sizes.budgets.values())).examples
        super().__init__(parent, limits, examples, lookahead)
        self._sizes, self._rows = sizes, numbers.rows
        self._row = numbers.first_step * numbers.rows

    def __next__(self) -> Any:
        ratio = self._sizes.draw.ratio_of(self._row // self._rows)
        columns = self._columns(ratio)
        limits = self._limits[columns]
        items, room = [], limits
        while True:
            self._refill()
            if not self._waiting:
                break
            sizes = np.stack([waiting.sizes for waiting in self._waiting])[:, columns]
            if (sizes > room).any(1).all():
                break
            waited = np.array([waiting.waited for waiting in self._waiting])
            values = example_values(sizes[:, :-1], limits[:-1], waited)
            chosen = set(choose_examples(sizes, room, values))
            room = room - sizes[sorted(chosen)].sum(0)
            items += [w.item for i, w in enumerate(self._waiting) if i in chosen]
            self._waiting = [w for i, w in enumerate(self._waiting) if i not in chosen]
        if not items:
            raise StopIteration
        for waiting in self._waiting:
            waiting.waited += 1
        self._row += 1
        return _Row(ratio, items)

    def get_state(self) -> dict[str, Any]:
        return {**super().get_state(), "row": self._row}

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        self._row = state["row"]

    def _columns(self, ratio: float) -> list[int]:
        """Returns the columns of the sizes that a row of a ratio is filled by."""
        names = [_name(ratio, key) for key in SIZES]
        return [*(self._names.index(name) for name in names), len(self._names)]
