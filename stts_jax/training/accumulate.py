"""Accumulates the gradient of a batch over parts of its rows, for batches that devices can't hold.

The loss of each part is divided by the counts of the whole batch, so that loss and gradient summed
over the parts are those of the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from stts_jax.batch import Batch
from stts_jax.parallel.mesh import BATCH_AXES

# (parameters by name, rows, index of the part) -> loss and metrics
PartLoss = Callable[
    [dict[str, jax.Array], Batch, jax.Array], tuple[jax.Array, dict[str, jax.Array]]
]


def value_and_summed_gradient(
    loss: PartLoss,
    parameters: dict[str, jax.Array],
    batch: Batch,
    parts: int,
    mesh: Mesh,
) -> tuple[tuple[jax.Array, dict[str, jax.Array]], dict[str, jax.Array]]:
    """Returns `jax.value_and_grad(loss, has_aux=True)`, summed over parts of the rows.

    Args:
      loss: of a part.
      parameters: with respect to which to differentiate, by name.
      batch: of B rows, a multiple of `parts` times the devices that share rows.
      parts: number of parts; 1 makes no loop.
      mesh: that the rows are sharded over. Each part takes rows of every device.
    """
    of_part = jax.value_and_grad(loss, has_aux=True)
    if parts == 1:
        return of_part(parameters, batch, jnp.int32(0))
    rows = jax.tree.map(lambda x: _parts(x, parts, mesh), batch)
    first = jax.tree.map(lambda x: x[0], rows)
    shapes = jax.eval_shape(of_part, parameters, first, jnp.int32(0))[0]
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def add(sums: Any, part: tuple[jax.Array, Batch]) -> tuple[Any, None]:
        number, own = part
        return jax.tree.map(jnp.add, sums, of_part(parameters, own, number)), None

    start = (nothing, jax.tree.map(jnp.zeros_like, parameters))
    return jax.lax.scan(add, start, (jnp.arange(parts), rows))[0]


def _parts(x: jax.Array, parts: int, mesh: Mesh) -> jax.Array:
    """Reshapes (B, ...) to (parts, B / parts, ...); rows stay on their devices."""
    devices = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    x = jnp.moveaxis(x.reshape(devices, parts, -1, *x.shape[1:]), 1, 0)
    x = x.reshape(parts, -1, *x.shape[3:])
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(None, BATCH_AXES)))
