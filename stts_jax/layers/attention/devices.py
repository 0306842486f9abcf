"""Attention on a mesh: every device attends for its own rows and heads, and nothing is sent."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol, TypeVar

import jax
from jax.sharding import AbstractMesh, PartitionSpec

from stts_jax.parallel.mesh import BATCH_AXES, LOGICAL_AXES

HEAD_AXIS = LOGICAL_AXES["heads"]


class HasHeads(Protocol):
    """A pytree with rows (B, ..., L, H, d) of these names; its other arrays start with B too."""

    query: jax.Array
    key: jax.Array
    value: jax.Array


R = TypeVar("R", bound=HasHeads)


def on_own_rows(attend: Callable[[R], jax.Array], request: R) -> jax.Array:
    """`attend(request)`, where a mesh is set on each device for its part of the request.

    Rows lie over `data` and `fsdp`, heads over `tensor`; what these don't divide is whole on every
    device. Kernels need this: the compiler cannot cut them up.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.manual_axes or mesh.size == 1:
        return attend(request)
    rows = _dividing(BATCH_AXES, mesh, request.query.shape[0])
    heads = _dividing((HEAD_AXIS,), mesh, math.gcd(request.query.shape[-2], request.key.shape[-2]))

    def spec(x: jax.Array, has_heads: bool) -> PartitionSpec:
        own = rows if x.shape[0] == request.query.shape[0] else None
        inner = [None] * (x.ndim - 3) + [heads, None] if has_heads else [None] * (x.ndim - 1)
        return PartitionSpec(own, *inner)

    arrays = ("query", "key", "value")
    leaves, structure = jax.tree_util.tree_flatten_with_path(request)
    specs = [spec(x, path[0].name in arrays) for path, x in leaves]
    return jax.shard_map(
        attend,
        in_specs=(jax.tree.unflatten(structure, specs),),
        out_specs=spec(request.query, True),
        check_vma=False,
    )(request)


def _dividing(
    axes: tuple[str | None, ...], mesh: AbstractMesh, size: int
) -> tuple[str, ...] | None:
    """Those of the axes that the mesh has, if they divide a dimension of this size, else None."""
    present = tuple(axis for axis in axes if axis is not None and mesh.shape.get(axis, 1) > 1)
    parts = math.prod(mesh.shape[axis] for axis in present)
    return present if present and size % parts == 0 else None
