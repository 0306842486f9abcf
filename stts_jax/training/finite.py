"""Whether a state is worth keeping: an update may overflow where loss and gradients do not."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from stts_jax.parallel.mesh import replicated
from stts_jax.parallel.parameters import named_parameters
from stts_jax.training.step import TrainState


def not_finite(state: TrainState, mesh: Mesh) -> list[str]:
    """Names of parameters and moments that hold a number that is not finite.

    It reads all of them once, so it is for states that are to be saved. Every process must ask.

    Args:
      state: that steps have made.
      mesh: that it lies on.
    """
    arrays = {
        f"{part}.{name}": array
        for part in ("model", "optimizer")
        for name, array in named_parameters(getattr(state, part)).items()
    }
    names = sorted(arrays)
    finite = jax.device_get(_finite([arrays[name] for name in names], mesh))
    return [name for name, is_finite in zip(names, finite, strict=True) if not is_finite]


@partial(jax.jit, static_argnames="mesh")
def _finite(arrays: list[jax.Array], mesh: Mesh) -> jax.Array:
    found = jnp.stack([jnp.isfinite(array).all() for array in arrays])
    return jax.lax.with_sharding_constraint(found, replicated(mesh))
