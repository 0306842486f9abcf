"""The gradient of a batch, a part of its rows after the other: for batches that devices can't hold.

Every part's loss is divided by what the whole batch counts, so that the sum over the parts is the
loss, and the gradient, of the batch in one piece.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from stts_jax.model.video_language_model import VideoLanguageModel
from stts_jax.parallel.mesh import BATCH_AXES

Batch = dict[str, jax.Array]
# Model, rows and the number of the part -> loss and metrics.
PartLoss = Callable[[VideoLanguageModel, Batch, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]


def value_and_summed_gradient(
    loss: PartLoss,
    model: VideoLanguageModel,
    batch: Mapping[str, jax.Array],
    parts: int,
    mesh: Mesh,
) -> tuple[tuple[jax.Array, dict[str, jax.Array]], VideoLanguageModel]:
    """What `jax.value_and_grad(loss, has_aux=True)` returns, summed over parts of the rows.

    Args:
      loss: of a part.
      model: to differentiate by.
      batch: (B, ...) arrays, B a multiple of `parts` times the devices that share rows.
      parts: how many; 1 makes no loop.
      mesh: that the rows lie on. Each part takes its share from every device.
    """
    of_part = jax.value_and_grad(loss, has_aux=True)
    if parts == 1:
        return of_part(model, dict(batch), jnp.int32(0))
    rows = {name: _parts(array, parts, mesh) for name, array in batch.items()}
    first = jax.tree.map(lambda x: x[0], rows)
    shapes = jax.eval_shape(of_part, model, first, jnp.int32(0))[0]
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def add(sums: Any, part: tuple[jax.Array, Batch]) -> tuple[Any, None]:
        number, own = part
        return jax.tree.map(jnp.add, sums, of_part(model, own, number)), None

    start = (nothing, jax.tree.map(jnp.zeros_like, model))
    return jax.lax.scan(add, start, (jnp.arange(parts), rows))[0]


def _parts(x: jax.Array, parts: int, mesh: Mesh) -> jax.Array:
    """(B, ...) -> (parts, B / parts, ...); rows stay on their devices."""
    devices = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    x = jnp.moveaxis(x.reshape(devices, parts, -1, *x.shape[1:]), 1, 0)
    x = x.reshape(parts, -1, *x.shape[3:])
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(None, BATCH_AXES)))
