"""Cooperation of the processes of a run, one for each host, apart from computing."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """The part of a list that one of several processes works on.

    Attributes:
      index: of the process.
      count: of processes.
    """

    index: int = 0
    count: int = 1

    @classmethod
    def of_this_process(cls) -> Share:
        """Returns the part of this process, one for each process of the run."""
        return cls(jax.process_index(), jax.process_count())

    def of(self, items: Sequence[T]) -> list[tuple[int, T]]:
        """Returns every `count`-th item with its index in the list."""
        return list(enumerate(items))[self.index :: self.count]

    def gather(self, value: Any) -> list[Any]:
        """Returns the values of all processes, in order; they wait for each other.

        Args:
          value: anything that JSON holds; it is sent as JSON.
        """
        return [value] if self.count == 1 else _gather(value)


ALONE = Share()


def is_first() -> bool:
    """Returns whether this is the process that writes and prints for all."""
    return jax.process_index() == 0


def notice(text: str) -> None:
    """Prints a line, once for all processes."""
    if is_first():
        print(text, flush=True)


def first_then_others(make: Callable[[], T]) -> T:
    """Calls `make` in the first process, and in the others once it is done there.

    For functions that write files which the others then find, such as a converted checkpoint.
    """
    if jax.process_count() == 1:
        return make()
    found = [make()] if is_first() else []
    multihost_utils.sync_global_devices("the first process is done")
    return found[0] if found else make()


def _gather(value: Any) -> list[Any]:
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.array([text.size])).reshape(-1)
    padded = np.pad(text, (0, int(lengths.max()) - text.size))
    rows = multihost_utils.process_allgather(padded)
    return [json.loads(bytes(r[:n]).decode()) for r, n in zip(rows, lengths, strict=True)]
