"""Compares the memory that the state of a run takes with what its devices have free."""

from __future__ import annotations

import math
from typing import Any

import jax
from jax.sharding import Mesh

from stts_jax.config import ConfigError
from stts_jax.parallel.memory import free_memory
from stts_jax.training.step import TrainState


def require_state_fits(state: TrainState, mesh: Mesh) -> None:
    """Refuses a run whose parameters, gradients and moments alone are more than there is.

    Activations come on top; `python -m stts_jax.fit` counts them too.

    Args:
      state: shapes and shardings, see `step.abstract_state`.
      mesh: that the run is trained on.

    Raises:
      ConfigError: with what is needed and what is there.
    """
    device = mesh.local_devices[0]
    # The devices of a CPU share one memory.
    holders = len(mesh.local_devices) if device.platform == "cpu" else 1
    parameters = holders * _bytes_held(state.model)
    moments = holders * _bytes_held(state.optimizer)
    needed, free = 2 * parameters + moments, free_memory(device)
    if free is not None and needed > free:
        where = "this machine" if device.platform == "cpu" else "each device"
        raise ConfigError(
            f"the state of this run takes {needed / 1e9:.2f} GB of memory ({parameters / 1e9:.2f} "
            f"for parameters, as much for gradients, {moments / 1e9:.2f} for moments), and {where} "
            f"has {free / 1e9:.2f} GB free; share it among more devices (train.mesh.fsdp), or "
            "train a smaller model"
        )


def _bytes_held(arrays: Any) -> int:
    """Returns the bytes that one device holds of arrays with their shardings."""
    return sum(
        leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))
        for leaf in jax.tree.leaves(arrays)
    )
