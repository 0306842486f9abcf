"""Profiles a few steps, for `xprof` or TensorBoard's profile page."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import jax

PROFILE = "profile"


class Profile:
    """Traces the steps of `train.profile`, if any."""

    def __init__(self, output: Path, steps: Sequence[int]) -> None:
        """Prepares to trace steps `steps[0]` to `steps[1]` into `output/profile`; empty: none."""
        self._folder = output / PROFILE
        self._first, self._last = steps or (0, -1)
        self._running = False

    def step(self, number: int) -> AbstractContextManager[Any]:
        """Returns the context to call a step in; starts the trace at the first one."""
        if self._first <= number <= self._last and not self._running:
            jax.profiler.start_trace(str(self._folder))
            self._running = True
        if not self._running:
            return nullcontext()
        return jax.profiler.StepTraceAnnotation("train", step_num=number)

    def step_done(self, number: int) -> None:
        """Ends the trace if the step, whose results have been fetched, is the last one."""
        if number >= self._last:
            self.close()

    def close(self) -> None:
        """Writes the trace, if one is running."""
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
