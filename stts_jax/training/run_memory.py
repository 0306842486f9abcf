"""Compares the memory that the state of a run takes with what its devices have free."""

from __future__ import annotations

import math
from typing import Any

import jax
from jax.sharding import Mesh

from stts_jax.config import ConfigError, TrainConfig
from stts_jax.parallel.memory import free_memory
from stts_jax.parallel.parameters import named_parameters
from stts_jax.training.optimizer import is_trained
from stts_jax.training.step import TrainState


def require_state_fits(state: TrainState, mesh: Mesh, train: TrainConfig | None = None) -> None:
    """Refuses a run whose parameters, gradients and moments alone are more than there is.

    Activations come on top; `python -m stts_jax.fit` counts them too.

    Args:
      state: shapes and shardings, see `step.abstract_state`.
      mesh: that the run is trained on.
      train: settings of the run, by which frozen parameters have no gradients.

    Raises:
      ConfigError: with what is needed and what is there.
    """
    device = mesh.local_devices[0]
    # The devices of a CPU share one memory.
    holders = len(mesh.local_devices) if device.platform == "cpu" else 1
    parameters = holders * _bytes_held(state.model)
    moments = holders * _bytes_held(state.optimizer)
    named = named_parameters(state.model)
    trained = [leaf for name, leaf in named.items() if train is None or is_trained(name, train)]
    gradients = holders * _bytes_held(trained)
    needed, free = parameters + gradients + moments, free_memory(device)
    if free is not None and needed > free:
        where = "this machine" if device.platform == "cpu" else "each device"
        raise ConfigError(
            f"the state of this run takes {needed / 1e9:.2f} GB of memory ({parameters / 1e9:.2f} "
            f"for parameters, {_gradients(gradients, parameters)}, {moments / 1e9:.2f} for "
            f"moments), and {where} has {free / 1e9:.2f} GB free; share it among more devices "
            "(train.mesh.fsdp), train adapters (train.lora.rank=16), or train a smaller model"
        )


def _gradients(gradients: int, parameters: int) -> str:
    same = gradients == parameters
    return "as much for gradients" if same else f"{gradients / 1e9:.2f} for gradients"


def _bytes_held(arrays: Any) -> int:
    """Returns the bytes that one device holds of arrays with their shardings."""
    return sum(
        leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))
        for leaf in jax.tree.leaves(arrays)
    )
