"""Reports the progress of a run: log lines, `metrics.jsonl`, trackers and `loss.png`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from stts_jax.config import Config
from stts_jax.training.clock import Clock, time_line
from stts_jax.training.flops import Throughput
from stts_jax.training.log import Console, MetricsLog, Window, log_line
from stts_jax.training.plots import plot_training
from stts_jax.training.run_files import RunFiles
from stts_jax.training.trackers import Tracker, flat, make_trackers


class Reporter:
    """Reports the progress of one run, from its first process only."""

    def __init__(
        self,
        config: Config,
        files: RunFiles,
        step: int,
        clock: Clock,
        throughput: Throughput,
        stack: ExitStack,
        draw: Callable[[Path], Any] = plot_training,
    ) -> None:
        """Opens the log and the trackers.

        Args:
          config: of the run.
          files: folder that the log is written to.
          step: that the run resumes from; later records of an earlier process are removed.
          clock: of the run; time that an earlier process logged is added.
          throughput: for the rates.
          stack: closes log and trackers.
          draw: draws the curves of the run in its folder.
        """
        self._config, self._files, self._clock = config.train, files, clock
        output = files.folder
        self._first, self._draw = jax.process_index() == 0, draw
        self._console = Console(step, self._config.steps, enabled=self._first)
        stack.callback(self._console.close)
        self._log = stack.enter_context(MetricsLog(output, step)) if self._first else None
        for record in self._log.kept if self._log else []:
            if "time" in record:
                clock.catch_up(record["time"])
        self._window, self._reported_at = Window(throughput), clock.seconds
        self._trackers: list[Tracker] = []
        if self._log:
            self._trackers = make_trackers(config, output, step)
        for tracker in self._trackers:
            stack.callback(tracker.close)

    def line(self, text: str) -> None:
        """Prints a line."""
        self._console.line(text)

    def step(
        self,
        step: int,
        metrics: Mapping[str, float],
        account: Callable[[], Mapping[str, float]],
        ahead: float = 0.0,
    ) -> None:
        """Records a completed step; every `train.log_every` steps also prints the means since.

        Args:
          step: its number.
          metrics: of the step.
          account: returns the data's entries of the log.
          ahead: seconds that the call of the next step has taken already. On a CPU the call
            computes the step, so these seconds belong to the next one.
        """
        before, self._reported_at = self._reported_at, self._clock.seconds - ahead
        self._window.add(metrics, before, self._reported_at)
        self._write({"step": step, **metrics, "seconds": self._reported_at})
        self._console.advance(metrics["loss"])
        every = self._config.log_every
        if every and step % every == 0:
            self._report_window(step, account())

    def evaluation(self, step: int, scores: Mapping[str, float]) -> None:
        """Records and prints the scores of an evaluation."""
        self._write({"step": step, "evaluation": dict(scores), "time": self._clock.buckets})
        for tracker in self._trackers:
            tracker.write(step, flat({"evaluation": scores}))
        text = " | ".join(f"{name} {value:.3f}" for name, value in scores.items())
        self.line(f"step {step}/{self._config.steps} evaluated | {text}")
        self.plot()
        self.copy()

    def time(self, step: int) -> None:
        """Records and prints the time spent so far."""
        self._write({"step": step, "time": self._clock.buckets})
        self.line(time_line(self._clock.buckets))

    def last_evaluated(self) -> int:
        """Returns the last step that an earlier process of this run evaluated, 0 if none."""
        kept = self._log.kept if self._log else []
        last = max((r["step"] for r in kept if "evaluation" in r), default=0)
        if jax.process_count() == 1:
            return last
        return int(multihost_utils.broadcast_one_to_all(np.int32(last)))

    def copy(self) -> None:
        """Copies what was written to the bucket that the run is in, if it is in one."""
        self._files.copy()

    def plot(self) -> None:
        """Draws the curves so far."""
        if self._first:
            self._draw(self._files.folder)

    def _report_window(self, step: int, account: Mapping[str, float]) -> None:
        left = self._config.steps - step
        values = self._window.close(left, self._clock.steps_per_second)
        values |= account
        self.line(log_line(step, self._config.steps, values))
        values |= {f"time/{name}": seconds for name, seconds in self._clock.buckets.items()}
        self._write({"step": step, "window": values})
        for tracker in self._trackers:
            tracker.write(step, values)
        self._files.copy_now_and_then()

    def _write(self, record: Mapping[str, Any]) -> None:
        if self._log is not None:
            self._log.write(record)
