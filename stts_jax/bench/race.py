"""Times several programs in turns, so that a busy machine slows all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from stts_jax.host_memory import give_back_much

K = TypeVar("K")


@dataclass
class Times:
    """Wall seconds and core seconds of each turn."""

    clock: list[float] = field(default_factory=list)
    cores: list[float] = field(default_factory=list)

    def median(self, of: str = "clock") -> float:
        """Returns the median of `clock` or `cores`."""
        return float(np.median(getattr(self, of)))

    def minus(self, other: Times) -> Times:
        """Subtracts `other`, turn by turn."""

        def left(long: list[float], short: list[float]) -> list[float]:
            return [a - b for a, b in zip(long, short, strict=True)]

        return Times(left(self.clock, other.clock), left(self.cores, other.cores))


def race(programs: Mapping[K, Callable[[], None]], rounds: int) -> dict[K, Times]:
    """Runs each program once a round; every other round in reverse order.

    Args:
      programs: by name; each returns when it is done, and has been compiled.
      rounds: turns of each.
    """
    times = {name: Times() for name in programs}
    for number in range(rounds):
        names = list(programs) if number % 2 == 0 else list(programs)[::-1]
        for name in names:
            give_back_much()
            clock, cores = time.perf_counter(), time.process_time()
            programs[name]()
            times[name].clock.append(time.perf_counter() - clock)
            times[name].cores.append(time.process_time() - cores)
    return times


def ratios(baseline: Times, other: Times, of: str = "clock") -> list[float]:
    """Returns how many times faster `other` is in each round."""
    return (np.asarray(getattr(baseline, of)) / np.asarray(getattr(other, of))).tolist()


def speedup(baseline: Times, other: Times, of: str = "clock") -> float:
    """Returns the speed-up of `other`: the median over rounds of the ratio within a round."""
    return float(np.median(ratios(baseline, other, of)))


def spread(of_rounds: Sequence[float]) -> str:
    """Formats the smallest and the largest ratio of a round, to follow the median."""
    return f"({min(of_rounds):.2f} to {max(of_rounds):.2f})"
