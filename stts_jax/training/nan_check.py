"""Stops a run if a loss, gradient or parameter is not finite, and dumps the step for `replay`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from stts_jax.batch import Batch
from stts_jax.config import Config
from stts_jax.parallel.mesh import replicated
from stts_jax.parallel.parameters import named_parameters
from stts_jax.training.checkpointing.checkpoint_errors import CheckpointError
from stts_jax.training.checkpointing.run_folder import (
    CHECKPOINTS,
    checkpoint_steps,
)
from stts_jax.training.checkpointing.save import Checkpoints
from stts_jax.training.dump import fingerprint, write_dump
from stts_jax.training.step import TrainState


class TrainingError(RuntimeError):
    """Raised if training can't go on; the message names the step."""


@dataclass(frozen=True)
class StartedStep:
    """A step that was started, whose metrics may still be on the devices.

    Attributes:
      step: its number, 1 for the first.
      metrics: of the step, on the devices.
      waited: seconds that the step waited for its data.
      batch: this process's rows.
      ratio: of the step, None in a run at a fixed ratio.
    """

    step: int
    metrics: dict[str, jax.Array]
    waited: float
    batch: Batch
    ratio: float | None = None


@dataclass(frozen=True)
class NanCheck:
    """Raises a `TrainingError` for a step that is not finite, after writing its dump.

    Attributes:
      config: of the run.
      output: folder of the run, where dumps go.
      mesh: that the state is sharded over.
      checkpoints: of the run; a dump names the newest one before the step.
      init_from: folder of the parameters that the run was initialised from, if any.
    """

    config: Config
    output: Path
    mesh: Mesh
    checkpoints: Checkpoints
    init_from: Path | None

    def check_metrics(self, started: StartedStep, metrics: Mapping[str, float]) -> None:
        """Raises if a metric of the step is not finite."""
        bad = [f"{name} is {value}" for name, value in metrics.items() if not math.isfinite(value)]
        if bad:
            raise self._non_finite_error(started, metrics, ", ".join(bad))

    def check_state(
        self, state: TrainState, last: StartedStep | None, metrics: Mapping[str, float]
    ) -> None:
        """Raises if the update of the last step left the state not finite.

        Args:
          state: after the step; all of it is read.
          last: the step; None if this process has done none: its state was restored as it is.
          metrics: of the step.
        """
        bad = non_finite_names(state, self.mesh)
        if bad and last is not None:
            more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
            raise self._non_finite_error(
                last, metrics, f"its update left '{bad[0]}'{more} not finite"
            )

    def _non_finite_error(
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
        except (OSError, CheckpointError) as error:  # the step's own error must be raised
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


def non_finite_names(state: TrainState, mesh: Mesh) -> list[str]:
    """Returns the names of parameters and moments that hold values that are not finite.

    Reads all of them, so it is for states that are to be saved. Collective: all processes call it.

    Args:
      state: of the run.
      mesh: that it is sharded over.
    """
    arrays = {
        f"{part}.{name}": array
        for part in ("model", "optimizer")
        for name, array in named_parameters(getattr(state, part)).items()
    }
    names = sorted(arrays)
    finite = jax.device_get(_are_finite([arrays[name] for name in names], mesh))
    return [name for name, is_finite in zip(names, finite, strict=True) if not is_finite]


@partial(jax.jit, static_argnames="mesh")
def _are_finite(arrays: list[jax.Array], mesh: Mesh) -> jax.Array:
    found = jnp.stack([jnp.isfinite(array).all() for array in arrays])
    return jax.lax.with_sharding_constraint(found, replicated(mesh))
