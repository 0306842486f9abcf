"""Examples in an order in which they fill rows, from a few dozen that wait at a time.

The packer that follows closes a row when an example does not fit any more, so all depends on which
comes next. Here the examples that go together are chosen from those that wait, and leave one after
another; nothing else is changed, so what a row may hold stays the packer's business.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import grain
import numpy as np

from stts_jax.data.packing.row_choice import choose_examples, example_values
from stts_jax.data.packing.rows import BudgetError

Item = dict[str, Any]


@dataclass
class _Waiting:
    """An example that was read and not handed over.

    Attributes:
      item: the example.
      sizes: (k + 1,) int64, what it takes of each budget, and 1 for itself.
      number: of the read that it came with.
      before: the parent's state before that read.
      waited: rows that were made without it.
    """

    item: Item
    sizes: np.ndarray
    number: int
    before: dict[str, Any]
    waited: int = 0


class LookaheadIterDataset(grain.IterDataset):
    """A stream of examples, reordered so that rows are filled.

    The examples of a row leave together, in the order in which they were read. None waits for
    ever: the longer, the more it is worth (`row_choice.PATIENCE`). All memory that this takes is
    that of the waiting examples.
    """

    def __init__(
        self,
        parent: grain.IterDataset,
        *,
        limits: Mapping[str, int],
        max_examples: int,
        lookahead: int,
    ) -> None:
        """Reorder a stream.

        Args:
          parent: of dicts with `sizes`, what the example takes of each of `limits`.
          limits: the budgets of a row.
          max_examples: that a row may hold.
          lookahead: examples that wait at a time.
        """
        super().__init__(parent)
        self._limits, self._max_examples = dict(limits), max_examples
        self._lookahead = lookahead

    def __iter__(self) -> grain.DatasetIterator:
        return LookaheadIterator(
            self._parent.__iter__(), self._limits, self._max_examples, self._lookahead
        )


class LookaheadIterator(grain.DatasetIterator):
    """See `LookaheadIterDataset`.

    The state is that of the parent before the oldest example that is still here, and the numbers
    of those that are. So restoring reads again what was read since, which is exact and takes no
    room in a checkpoint.
    """

    def __init__(
        self,
        parent: grain.DatasetIterator,
        limits: Mapping[str, int],
        max_examples: int,
        lookahead: int,
    ) -> None:
        super().__init__(parent)
        self._names = tuple(limits)
        self._limits = np.array([*limits.values(), max_examples], np.int64)
        self._lookahead = lookahead
        self._room = self._limits.copy()
        self._waiting: list[_Waiting] = []
        self._chosen: list[_Waiting] = []
        self._read = 0
        self._exhausted = False

    def __next__(self) -> Item:
        if not self._chosen:
            self._refill()
            self._choose()
        if not self._chosen:
            raise StopIteration
        leaving = self._chosen.pop(0)
        self._room = self._room - leaving.sizes
        return leaving.item

    def get_state(self) -> dict[str, Any]:
        here = sorted(self._waiting + self._chosen, key=lambda waiting: waiting.number)
        return {
            "parent": copy.deepcopy(here[0].before if here else self._parent.get_state()),
            "since": here[0].number if here else self._read,
            "read": self._read,
            "waiting": [[waiting.number, waiting.waited] for waiting in self._waiting],
            "chosen": [chosen.number for chosen in self._chosen],
            "room": self._room.tolist(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        self._parent.set_state(copy.deepcopy(state["parent"]))
        self._read, self._exhausted = state["since"], False
        waited = dict(state["waiting"])
        wanted = waited.keys() | set(state["chosen"])
        again = {}
        while self._read < state["read"]:
            read = self._next_of_parent()
            if read.number in wanted:
                again[read.number] = read
        self._waiting = [again[number] for number in waited]
        for waiting in self._waiting:
            waiting.waited = waited[waiting.number]
        self._chosen = [again[number] for number in state["chosen"]]
        self._room = np.array(state["room"], np.int64)

    def _next_of_parent(self) -> _Waiting:
        before = copy.deepcopy(self._parent.get_state())
        item = next(self._parent)
        sizes = np.array([*(item["sizes"][name] for name in self._names), 1], np.int64)
        for name, size, limit in zip(self._names, sizes, self._limits, strict=False):
            if size > limit:
                raise BudgetError(
                    f"an example takes {size} of '{name}', {size - limit} more than a row holds; "
                    "make rows larger or leave it out"
                )
        self._read += 1
        return _Waiting(item, sizes, self._read - 1, before)

    def _refill(self) -> None:
        while len(self._waiting) < self._lookahead and not self._exhausted:
            try:
                self._waiting.append(self._next_of_parent())
            except StopIteration:
                self._exhausted = True

    def _choose(self) -> None:
        """Chooses what still fits the open row, else examples of a new row; see `row_choice`."""
        if not self._waiting:
            return
        sizes = np.stack([waiting.sizes for waiting in self._waiting])
        if (sizes > self._room).any(1).all():
            for waiting in self._waiting:
                waiting.waited += int((self._room < self._limits).any())
            self._room = self._limits.copy()
        waited = np.array([waiting.waited for waiting in self._waiting])
        values = example_values(sizes[:, :-1], self._limits[:-1], waited)
        numbers = choose_examples(sizes, self._room, values)
        self._chosen = [self._waiting[number] for number in numbers]
        self._waiting = [w for i, w in enumerate(self._waiting) if i not in set(numbers)]
