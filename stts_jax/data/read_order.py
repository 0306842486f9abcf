"""The position of a stream that any number of worker processes reads.

Grain keeps a position for each worker. Since they take turns, example by example, in the order in
which a single worker would read, the number of examples read is enough, for any number of workers.
"""

from __future__ import annotations

import copy
from typing import Any

import grain

from stts_jax.data.worker_start import light_workers

_TAKEN, _WORKERS, _TURN = "next_index", "iterators_in_use_states", "next_index_in_cycle"


class AnyWorkersIterDataset(grain.IterDataset):
    """Passes on its parent's elements, with the states of a stream that no worker reads."""

    def __init__(self, parent: grain.IterDataset, workers: int) -> None:
        """Wrap a stream that `workers` processes read (0: this one)."""
        super().__init__(parent)
        self._workers = workers

    def __iter__(self) -> grain.DatasetIterator:
        return _AnyWorkersIterator(self._parent.__iter__(), self._workers)


class _AnyWorkersIterator(grain.DatasetIterator):
    def __init__(self, parent: grain.DatasetIterator, workers: int) -> None:
        super().__init__(parent)
        self._workers = workers
        self._fresh = copy.deepcopy(parent.get_state())
        self._taken = 0
        self._to_start = workers  # each of them begins when its first element is asked for

    def __next__(self) -> Any:
        if self._to_start:
            with light_workers():
                element = next(self._parent)
            self._to_start -= 1
        else:
            element = next(self._parent)
        self._taken += 1
        return element

    def get_state(self) -> dict[str, Any]:
        return {_TAKEN: self._taken}

    def set_state(self, state: dict[str, Any]) -> None:
        self._taken = _taken(state)
        self._to_start = self._workers
        self._parent.set_state(self._of_parent(self._taken))

    def _of_parent(self, taken: int) -> dict[str, Any]:
        count = self._workers
        if not count:
            return {_TAKEN: taken}
        # The first workers may have had one turn more.
        own = [{_TAKEN: (taken + count - 1 - index) // count} for index in range(count)]
        return copy.deepcopy(self._fresh) | {_WORKERS: own, _TURN: taken % count}


def _taken(state: dict[str, Any]) -> int:
    """Older checkpoints have a position for each worker."""
    return state[_TAKEN] if _TAKEN in state else sum(own[_TAKEN] for own in state[_WORKERS])
