"""What a run tells: its clock, `metrics.jsonl`, the log line and the progress bar."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

METRICS_FILE = "metrics.jsonl"
# Steps that compile, fill caches and start workers; they say nothing of a run's speed.
WARM_UP_STEPS = 5
_GROUP_NORM = "gradient_norm/"


class Clock:
    """Time spent in training steps. Evaluating and saving don't count, waiting for data does."""

    def __init__(self, seconds_before: float = 0.0) -> None:
        self._before = seconds_before
        self._start = time.perf_counter()
        self._paused = 0.0
        self._steps = 0
        self._warm: float | None = None

    @property
    def seconds(self) -> float:
        """Over all resumptions of the run."""
        return self._before + self._active()

    def step_done(self) -> None:
        """Count a step whose results are there."""
        self._steps += 1
        if self._steps == WARM_UP_STEPS:
            self._warm = self._active()

    @property
    def steps_per_second(self) -> float | None:
        """Of this process, after its warm-up; None until then."""
        if self._warm is None or self._steps == WARM_UP_STEPS:
            return None
        return (self._steps - WARM_UP_STEPS) / (self._active() - self._warm)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out what is done inside."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._paused += time.perf_counter() - start

    def _active(self) -> float:
        return time.perf_counter() - self._start - self._paused


class MetricsLog:
    """Appends records to `metrics.jsonl`, one JSON object a line."""

    def __init__(self, output: Path, resumed_step: int) -> None:
        """Keep what an earlier run wrote up to `resumed_step` (0: nothing)."""
        self.path = output / METRICS_FILE
        kept = [r for r in read_metrics(self.path) if 0 < r["step"] <= resumed_step]
        with self.path.open("w") as file:
            file.writelines(json.dumps(record) + "\n" for record in kept)
        self._file: TextIO = self.path.open("a", buffering=1)

    def write(self, record: Mapping[str, Any]) -> None:
        """Append a record; it can be read at once."""
        self._file.write(json.dumps(record) + "\n")

    def close(self) -> None:
        """No more records."""
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a `metrics.jsonl`; none if there is no file. A line cut short is left out."""
    if not path.is_file():
        return []
    records = []
    for line in path.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


class Window:
    """Means of what happened since the last log line."""

    def __init__(self) -> None:
        self._records: list[Mapping[str, float]] = []
        self._start = self._end = 0.0

    def add(self, metrics: Mapping[str, float], before: float, after: float) -> None:
        """Add a step's metrics, and the clock before and after it."""
        if not self._records:
            self._start = before
        self._records.append(metrics)
        self._end = after

    def line(self, step: int, steps: int, steps_per_second: float | None) -> str:
        """The log line at `step` of `steps`; the next window starts empty.

        Args:
          step: updates so far.
          steps: updates in all.
          steps_per_second: to estimate what is left; by default the window's own.
        """
        seconds = max(self._end - self._start, 1e-9)
        rate = len(self._records) / seconds
        means = {
            name: sum(record[name] for record in self._records) / len(self._records)
            for name in self._records[-1]
        }
        last = self._records[-1]
        waited = means["data_wait"] * len(self._records) / seconds
        self._records = []
        left = timedelta(seconds=round((steps - step) / (steps_per_second or rate)))
        return " | ".join(
            [
                f"step {step}/{steps} ({100 * step / steps:.1f} %)",
                f"loss {means['loss']:.4f}",
                f"aux {means['auxiliary_loss']:.4f}",
                f"acc {100 * means['accuracy']:.1f} %",
                f"lr {last['learning_rate/llm']:.1e}",
                f"gnorm {total_norm(means):.2f}",
                f"kept {100 * means['kept']:.0f} %",
                f"{rate:.2f} steps/s",
                f"data wait {100 * min(waited, 1.0):.0f} %",
                f"ETA {left}",
            ]
        )


def total_norm(metrics: Mapping[str, float]) -> float:
    """Norm of the whole gradient from those of its groups."""
    norms = (value for name, value in metrics.items() if name.startswith(_GROUP_NORM))
    return sum(norm**2 for norm in norms) ** 0.5


class Console:
    """Lines of text, under a progress bar where there is a terminal."""

    def __init__(self, step: int, steps: int, enabled: bool = True) -> None:
        self._enabled = enabled
        shown = enabled and sys.stderr.isatty()
        self._bar = tqdm(initial=step, total=steps, unit="step", disable=not shown, leave=False)

    def line(self, text: str) -> None:
        """Print a line above the bar."""
        if self._enabled:
            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()

    def advance(self, loss: float) -> None:
        """One step more."""
        if not self._bar.disable:
            self._bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            self._bar.update()

    def close(self) -> None:
        """Take the bar away."""
        self._bar.close()
