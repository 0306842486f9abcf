"""The functions that a run is made of, each of which can be replaced."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from stts_jax.budget import Budget
from stts_jax.config import Config
from stts_jax.data.pipeline import training_batches
from stts_jax.training.plots import plot_training
from stts_jax.training.run_mesh import run_mesh
from stts_jax.training.step import TrainState, init_state, make_train_step

# (state, batch, key) -> (state, metrics); `lower` it, if it can be, to compile it beforehand.
TrainStep = Callable[[TrainState, Any, jax.Array], tuple[TrainState, dict[str, jax.Array]]]


@dataclass(frozen=True)
class RunParts:
    """The functions that make the parts of a run; tests hand in cheaper ones.

    Attributes:
      make_mesh: the devices that a setup is trained on, with the axes of its mesh.
      open_data: opens one part of the data stream, see `training_batches`.
      init_state: makes the state of a new run.
      make_step: makes the training step of a setup.
      plot: draws `loss.png` in the folder of a run.
    """

    make_mesh: Callable[[Config], Mesh] = run_mesh
    open_data: Callable[..., Any] = training_batches
    init_state: Callable[[Config, Mesh, jax.Array], TrainState] = init_state
    make_step: Callable[[Config, Budget, Mesh], TrainStep] = make_train_step
    plot: Callable[[Path], Any] = plot_training
