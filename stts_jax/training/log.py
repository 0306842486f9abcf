"""Writes `metrics.jsonl`, the log line and the progress bar of a run."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from tqdm import tqdm

from stts_jax.training.checkpointing.checkpoint_errors import (
    CheckpointError,
    writing,
)
from stts_jax.training.flops import Throughput
from stts_jax.training.optimizer import GROUPS

METRICS_FILE = "metrics.jsonl"
_GROUP_NORM = "gradient_norm/"
_LEARNING_RATE = "learning_rate/"


class MetricsLog:
    """Appends records to `metrics.jsonl`, one JSON object a line; a context manager.

    Attributes:
      kept: records of earlier processes up to the step that this one resumes from.
    """

    def __init__(self, output: Path, resumed_step: int) -> None:
        """Opens the file; removes records after `resumed_step` (0: all)."""
        self.path = output / METRICS_FILE
        self.kept = [r for r in read_metrics(self.path) if 0 < r["step"] <= resumed_step]
        # Replaced as a whole: a run killed meanwhile must not lose its records.
        new = self.path.with_suffix(".new")
        with writing(self.path):
            new.write_text("".join(json.dumps(record) + "\n" for record in self.kept))
            new.replace(self.path)
            self._file: TextIO = self.path.open("a", buffering=1)

    def write(self, record: Mapping[str, Any]) -> None:
        """Appends a record and flushes it."""
        with writing(self.path):
            self._file.write(json.dumps(record) + "\n")

    def close(self) -> None:
        """Closes the file."""
        with writing(self.path):
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except CheckpointError:
            if error is None:  # otherwise the first error is raised
                raise


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Returns the records of a `metrics.jsonl`; none if there is no file.

    Lines that are no records, cut short by a crash for example, are left out.
    """
    if not path.is_file():
        return []
    records = map(_record, path.read_text(errors="replace").splitlines())
    return [record for record in records if record is not None]


def _record(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and isinstance(found.get("step"), int) else None


class Window:
    """Averages the metrics of the steps since the last log line."""

    def __init__(self, throughput: Throughput) -> None:
        self._throughput = throughput
        self._records: list[Mapping[str, float]] = []
        self._start = self._end = 0.0

    def add(self, metrics: Mapping[str, float], before: float, after: float) -> None:
        """Adds a step's metrics, and the clock's seconds before and after it."""
        if not self._records:
            self._start = before
        self._records.append(metrics)
        self._end = after

    def close(self, steps_left: int, steps_per_second: float | None) -> dict[str, float]:
        """Returns rates and means of the window, and empties it.

        Args:
          steps_left: for the estimate of the time left.
          steps_per_second: of the run, to estimate with; by default the window's own.

        Returns:
          the metrics' means (the last learning rate), and `steps_per_second`,
          `tokens_per_second_per_device` (tokens that the language model sees), `mfu` (where the
          peak is known), `gradient_norm`, `data_wait_share` and `seconds_left`.
        """
        records, seconds = self._records, max(self._end - self._start, 1e-9)
        self._records = []
        rate = len(records) / seconds
        means = {name: sum(r[name] for r in records) / len(records) for name in records[-1]}
        found = means | {n: v for n, v in records[-1].items() if n.startswith(_LEARNING_RATE)}
        tokens = means["tokens"] * rate / self._throughput.devices
        mfu = self._throughput.mfu(rate, [r["ratio"] for r in records if "ratio" in r])
        found |= {
            "steps_per_second": rate,
            "tokens_per_second_per_device": tokens,
            "gradient_norm": total_norm(means),
            "data_wait_share": min(means["data_wait"] * rate, 1.0),
            "seconds_left": steps_left / (steps_per_second or rate),
        }
        return found if mfu is None else found | {"mfu": mfu}


def log_line(step: int, steps: int, values: Mapping[str, float]) -> str:
    """Returns the log line of a step.

    Args:
      step: updates so far.
      steps: updates in all.
      values: of `Window.close` and `DataParts.account`.
    """
    parts = [
        f"step {step}/{steps} ({100 * step / steps:.1f} %)",
        f"loss {values['loss']:.4f}",
        f"temporal loss {values['auxiliary_loss']:.4f}",
        f"lr {_learning_rate(values)}",
        f"gnorm {values['gradient_norm']:.2f}",
        f"kept {100 * values['kept']:.0f} %",
        *_distillation(values),
        f"{values['tokens_per_second_per_device']:.0f} tok/s/dev",
    ]
    if "mfu" in values:
        parts.append(f"MFU {100 * values['mfu']:.1f} %")
    if "fill/tokens" in values:
        parts.append(f"fill {100 * values['fill/tokens']:.0f} %")
    parts += [
        f"data wait {100 * values['data_wait_share']:.0f} %",
        f"ETA {timedelta(seconds=round(values['seconds_left']))}",
    ]
    if values.get("skipped"):
        parts.append(f"skipped {values['skipped']:.0f}")
    if values.get("bad_examples"):
        parts.append(f"bad examples {values['bad_examples']}")
    return " | ".join(parts)


def _learning_rate(values: Mapping[str, float]) -> str:
    """Returns the learning rate of the LLM; where that is frozen, one of another group, named."""
    groups = [group for group in GROUPS if _LEARNING_RATE + group in values]
    rate = f"{values[_LEARNING_RATE + groups[0]]:.1e}"
    return rate if groups[0] == "llm" else f"{rate} ({groups[0]})"


def _distillation(values: Mapping[str, float]) -> Iterator[str]:
    if "distill/kl" in values:
        share = 100 * values["distill/share"]
        yield f"KL {values['distill/kl']:.4f} ({share:.0f} % of the gradient)"


def total_norm(metrics: Mapping[str, float]) -> float:
    """Returns the norm of the whole gradient from those of its groups."""
    norms = (value for name, value in metrics.items() if name.startswith(_GROUP_NORM))
    return sum(norm**2 for norm in norms) ** 0.5


class Console:
    """Prints lines of text, and a progress bar if there is a terminal."""

    def __init__(self, step: int, steps: int, enabled: bool = True) -> None:
        self._enabled = enabled
        shown = enabled and sys.stderr.isatty()
        self._bar = tqdm(initial=step, total=steps, unit="step", disable=not shown, leave=False)

    def line(self, text: str) -> None:
        """Prints a line above the bar."""
        if self._enabled:
            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()

    def advance(self, loss: float) -> None:
        """Advances the bar by one step."""
        if not self._bar.disable:
            self._bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            self._bar.update()

    def close(self) -> None:
        """Removes the bar."""
        self._bar.close()
