"""A profile of a few steps, for `xprof` or TensorBoard's profile page."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import jax

PROFILE = "profile"


class Profile:
    """Traces the steps asked for; nothing where none are."""

    def __init__(self, output: Path, steps: Sequence[int]) -> None:
        """Trace steps `steps[0]` to `steps[1]` into `output/profile`; empty: none."""
        self._folder = output / PROFILE
        self._first, self._last = steps or (0, -1)
        self._running = False

    def step(self, number: int) -> AbstractContextManager[Any]:
        """To be open while a step is started; starts the trace at the first one."""
        if self._first <= number <= self._last and not self._running:
            jax.profiler.start_trace(str(self._folder))
            self._running = True
        if not self._running:
            return nullcontext()
        return jax.profiler.StepTraceAnnotation("train", step_num=number)

    def step_done(self, number: int) -> None:
        """The results of a step are there; ends the trace after the last one."""
        if number >= self._last:
            self.close()

    def close(self) -> None:
        """Write what has been traced."""
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
