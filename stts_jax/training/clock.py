"""Measures how much time a run spends on steps, data, compiling, saving and evaluating."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

# Steps that fill caches and start workers, left out of the speed.
WARM_UP_STEPS = 5
# `step` is all the time that is in no other bucket.
BUCKETS = ("compile", "data", "step", "save", "eval")
_APART = ("compile", "save", "eval")


class Clock:
    """Seconds by bucket, over all resumptions of a run.

    Waiting for data and the steps themselves are what training takes: `seconds`, and the base of
    all rates. Compiling, saving and evaluating are counted apart.
    """

    def __init__(self, before: Mapping[str, float] | None = None) -> None:
        self._before = dict.fromkeys(BUCKETS, 0.0) | dict(before or {})
        self._spent = dict.fromkeys(BUCKETS, 0.0)
        self._start = time.perf_counter()
        self._steps = 0
        self._warm: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds spent in training steps and waiting for their data, over all resumptions."""
        return self._before["data"] + self._before["step"] + self._active()

    @property
    def buckets(self) -> dict[str, float]:
        """Seconds in each of `BUCKETS`, over all resumptions."""
        spent = self._spent | {"step": self._active() - self._spent["data"]}
        return {name: self._before[name] + spent[name] for name in BUCKETS}

    def catch_up(self, buckets: Mapping[str, float]) -> None:
        """Raises the time before this process to `buckets`, which an earlier process logged."""
        self._before |= {name: max(self._before[name], buckets[name]) for name in BUCKETS}

    @contextmanager
    def spending(self, bucket: str) -> Iterator[None]:
        """Adds the time of the block to a bucket; blocks may not be nested."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._spent[bucket] += time.perf_counter() - start

    def step_done(self) -> None:
        """Counts a step whose results have been fetched."""
        self._steps += 1
        if self._steps == WARM_UP_STEPS:
            self._warm = self._active()

    @property
    def steps_per_second(self) -> float | None:
        """Steps per second of this process after its warm-up; None until then."""
        if self._warm is None or self._steps == WARM_UP_STEPS:
            return None
        return (self._steps - WARM_UP_STEPS) / (self._active() - self._warm)

    def _active(self) -> float:
        apart = sum(self._spent[name] for name in _APART)
        return time.perf_counter() - self._start - apart


def time_line(buckets: Mapping[str, float]) -> str:
    """Returns for example `time: compile 12.1 s | data 0.4 s | step 310.2 s | save 2.2 s | ...`."""
    return "time: " + " | ".join(f"{name} {buckets.get(name, 0.0):.1f} s" for name in BUCKETS)
