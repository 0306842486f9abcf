"""Splits the data stream of a run into parts, which any number of processes can share.

A new run's stream is split into as many parts as there are processes, and each part makes as many
rows of every batch. The number of parts stays with the run: with fewer processes later, each reads
several parts; with more, several read the same part and take their rows of it. So a batch has the
same rows whatever the number of processes.

The mesh decides which rows of the batch a part makes: on a torus a process may hold rows 0, 2, 4
and 6, and two processes would have to read a part that made rows 0 to 3.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np
from jax.sharding import Mesh

from stts_jax.batch import Batch
from stts_jax.budget import Budget
from stts_jax.config import ConfigError
from stts_jax.data.pipeline import TrainingBatches
from stts_jax.data.sources.configured import changed_sources
from stts_jax.parallel.mesh import batch_sharding
from stts_jax.training.stop import in_background

States = dict[int, Any]
OpenPart = Callable[[int, int], TrainingBatches]
_CLOSE_SECONDS = 5.0


def rows_by_process(rows: int, mesh: Mesh) -> dict[int, np.ndarray]:
    """Returns the indices of the batch's rows that each process supplies, ascending.

    Processes whose devices hold the same rows (a `tensor` axis across hosts) all supply them.
    """
    held: dict[int, set[int]] = defaultdict(set)
    devices: Mapping[Any, Any] = batch_sharding(mesh).devices_indices_map((rows,))
    for device, index in devices.items():
        held[device.process_index].update(np.arange(rows)[index].tolist())
    return {process: np.array(sorted(own)) for process, own in held.items()}


def local_rows(rows: int, mesh: Mesh) -> np.ndarray:
    """Returns the indices of this process's rows; see `rows_by_process`."""
    return rows_by_process(rows, mesh)[jax.process_index()]


def natural_parts(rows: int, mesh: Mesh) -> int:
    """Returns the number of parts of a new run's stream, so that no process reads unused rows.

    It is one for each set of rows that the same processes supply.
    """
    return rows // math.gcd(*map(len, _held_alike(rows_by_process(rows, mesh))))


def _held_alike(by_process: Mapping[int, np.ndarray]) -> list[list[int]]:
    """Returns the indices of all rows, grouped by the set of processes that supply them."""
    holders: dict[int, list[int]] = defaultdict(list)
    for process, own in sorted(by_process.items()):
        for row in own.tolist():
            holders[row].append(process)
    alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for row in sorted(holders):
        alike[tuple(holders[row])].append(row)
    return list(alike.values())


class DataParts:
    """Iterates over this process's rows of every batch.

    Attributes:
      budget: of every row.
      state: position of each part after the last batch that was used, by index of the part.
      shared: whether any part is read by several processes.
    """

    def __init__(self, open_part: OpenPart, rows: int, parts: int, mesh: Mesh) -> None:
        """Opens the parts that this process reads.

        Args:
          open_part: `(part, parts) -> batches` of `rows / parts` rows.
          rows: in the batch, over all processes.
          parts: number of parts of the stream.
          mesh: that batches are sharded over.

        Raises:
          ConfigError: if the parts can't share the rows.
        """
        if rows % parts:
            raise ConfigError(
                f"data.batch_rows is {rows}, which the {parts} parts that this run's data were "
                f"cut into can't share evenly; make it a multiple of {parts}"
            )
        by_process = rows_by_process(rows, mesh)
        # The rows of the first part, then those of the second, ...
        order = np.concatenate(_held_alike(by_process))
        self._order = order.reshape(parts, rows // parts)
        part_of = np.argsort(order) // (rows // parts)
        readers = [np.unique(part_of[own]) for own in by_process.values()]
        self.shared = sum(map(len, readers)) > parts
        self._rows = by_process[jax.process_index()]
        needed = np.unique(part_of[self._rows]).tolist()
        self._parts = {part: open_part(part, parts) for part in needed}
        self.budget: Budget = next(iter(self._parts.values())).budget
        self.state: States = self._states()

    def __next__(self) -> tuple[Batch, States]:
        """Returns the next batch, and the state after it, for `state` once the batch is used."""
        batches = {part: next(batches) for part, batches in self._parts.items()}
        return self._local(batches), self._states()

    def restore(self, states: Sequence[Any]) -> None:
        """Sets the position of the data.

        Args:
          states: of all parts, in order.
        """
        for part, batches in self._parts.items():
            batches.set_state(states[part])
        self.state = self._states()

    def changed_sources(self, states: Sequence[Any]) -> list[str]:
        """Returns the names of files whose content is not that of a checkpoint's states."""
        changed = (changed_sources(self.state[part], states[part]) for part in self._parts)
        return sorted({name for names in changed for name in names})

    def fill_rates(self) -> Mapping[str, float]:
        """Returns used shares of the rows, see `FillRates`, over the parts that are read here."""
        # Each part has made the same number of rows, so the mean is that of all rows.
        rates = [batches.fill_rates.as_dict() for batches in self._parts.values()]
        return {name: sum(rate[name] for rate in rates) / len(rates) for name in rates[0]}

    @property
    def bad_examples(self) -> int:
        """Number of examples that could not be used since the start, of the parts read here."""
        return sum(len(batches.bad.reasons) for batches in self._parts.values())

    def account(self) -> Mapping[str, float]:
        """Returns the data's entries of the log: `fill/*` and `bad_examples`."""
        fill = {f"fill/{name}": rate for name, rate in self.fill_rates().items()}
        return {**fill, "bad_examples": self.bad_examples}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # A part that is still waiting for a file may not close.
        closing = [in_background(batches.close) for batches in self._parts.values()]
        for future in closing:
            try:
                future.exception(timeout=_CLOSE_SECONDS)
            except TimeoutError:
                continue

    def _states(self) -> States:
        return {part: batches.get_state() for part, batches in self._parts.items()}

    def _local(self, batches: Mapping[int, Batch]) -> Batch:
        # Index in the batch of each row that was read.
        numbers = np.concatenate([self._order[part] for part in batches])
        ascending = np.argsort(numbers)
        own = ascending[np.searchsorted(numbers, self._rows, sorter=ascending)]
        if len(batches) == 1 and np.array_equal(own, np.arange(len(numbers))):
            return next(iter(batches.values()))
        return jax.tree.map(lambda *of_parts: np.concatenate(of_parts)[own], *batches.values())
