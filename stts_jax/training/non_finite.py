"""Stops a run whose numbers are no longer finite, and leaves the step to be looked into."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from stts_jax.config import Config
from stts_jax.training.checkpoint import CHECKPOINTS, CheckpointError, checkpoint_steps
from stts_jax.training.dump import fingerprint, write_dump
from stts_jax.training.finite import not_finite
from stts_jax.training.run_checkpoints import Checkpoints
from stts_jax.training.step import TrainState


class TrainingError(RuntimeError):
    """Training that can't go on; the message names the step."""


@dataclass(frozen=True)
class StartedStep:
    """A step whose metrics may still be on the devices.

    Attributes:
      step: its number, 1 for the first.
      metrics: of the step, on the devices.
      waited: seconds that the step waited for its data.
      batch: this process's rows.
    """

    step: int
    metrics: dict[str, jax.Array]
    waited: float
    batch: dict[str, np.ndarray]


@dataclass(frozen=True)
class FiniteCheck:
    """Raises a `TrainingError` for a step that is not finite, after its dump was written.

    Attributes:
      config: of the run.
      output: folder of the run, where dumps go.
      mesh: that the state lies on.
      checkpoints: of the run; a dump names the newest one from before the step.
      init_from: folder whose parameters the run started from, if any.
    """

    config: Config
    output: Path
    mesh: Mesh
    checkpoints: Checkpoints
    init_from: Path | None

    def of_metrics(self, started: StartedStep, metrics: Mapping[str, float]) -> None:
        """Raises if a metric of the step is not finite."""
        bad = [f"{name} is {value}" for name, value in metrics.items() if not math.isfinite(value)]
        if bad:
            raise self._error(started, metrics, ", ".join(bad))

    def of_state(
        self, state: TrainState, last: StartedStep | None, metrics: Mapping[str, float]
    ) -> None:
        """Raises if the update of the last step left the state not finite.

        Args:
          state: after the step; all of it is read.
          last: the step; None if this process has done none, whose state was saved as it is.
          metrics: of the step.
        """
        bad = not_finite(state, self.mesh)
        if bad and last is not None:
            more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
            raise self._error(last, metrics, f"its update left '{bad[0]}'{more} not finite")

    def _error(
        self, started: StartedStep, metrics: Mapping[str, float], what: str
    ) -> TrainingError:
        return TrainingError(
            f"training stopped at step {started.step}, batch {fingerprint(started.batch)}: {what}; "
            f"{self._dumped(started, metrics)}, lower the learning rates or leave that batch out, "
            "the last checkpoint is from before"
        )

    def _dumped(self, started: StartedStep, metrics: Mapping[str, float]) -> str:
        """Writes the dump; returns how to look into it, or why there is none."""
        try:
            folder = self._dump(started, metrics)
        except (OSError, CheckpointError) as error:  # must not hide what is wrong with the step
            return f"nothing of it is kept to look into, as something failed: {error}"
        return f"look into it with `python -m stts_jax.training.replay {folder}`"

    def _dump(self, started: StartedStep, metrics: Mapping[str, float]) -> Path:
        self.checkpoints.wait()
        saved = [step for step in checkpoint_steps(self.output) if step < started.step]
        newest = self.output.resolve() / CHECKPOINTS / str(saved[-1]) if saved else None
        return write_dump(
            self.output,
            self.config,
            self.mesh,
            started.step,
            started.batch,
            metrics,
            newest,
            None if saved else self.init_from,
        )
