"""Attention on a mesh: every device attends for its own rows, heads and places."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import jax
from jax.sharding import AbstractMesh, PartitionSpec

from stts_jax.parallel.mesh import BATCH_AXES, CONTEXT_AXIS, LOGICAL_AXES, on_one_device

HEAD_AXIS = LOGICAL_AXES["heads"]


class HasHeads(Protocol):
    """A pytree with rows (B, ..., L, H, d) of these names; its other arrays start with B too."""

    query: jax.Array
    key: jax.Array
    value: jax.Array


R = TypeVar("R", bound=HasHeads)


def on_own_rows(attend: Callable[[R], jax.Array], request: R) -> jax.Array:
    """`attend(request)`, where a mesh is set on each device for its part of the request.

    Rows lie over `data` and `fsdp`, heads over `tensor`, places over `context`: of
    (B, T, N, H, d) the frames, so that nothing is sent; of (B, L, H, d) the queries, to whom all
    keys of their rows are sent. Places of segments aren't cut up: there heads lie over `context`
    too. What these don't divide is whole on every device. Kernels need this: the compiler cannot
    cut them up.
    """
    if on_one_device():
        return attend(request)
    mesh, query = jax.sharding.get_abstract_mesh(), request.query
    rows = _dividing(BATCH_AXES, mesh, query.shape[0])
    count = math.gcd(query.shape[-2], request.key.shape[-2])
    heads = _dividing((HEAD_AXIS,), mesh, count)
    if not _has_places_apart(request):
        heads = _dividing((HEAD_AXIS, CONTEXT_AXIS), mesh, count) or heads
    places = _dividing((CONTEXT_AXIS,), mesh, query.shape[1])

    def spec(path: tuple[Any, ...], x: jax.Array) -> PartitionSpec:
        axes: list[Any] = [None] * x.ndim
        if x.shape[0] == query.shape[0]:
            axes[0] = rows
        if x.shape[1:2] == query.shape[1:2] and _lies_with_places(path, request):
            axes[1] = places
        if path[0].name in ("query", "key", "value"):
            axes[-2] = heads
        return PartitionSpec(*axes)

    leaves, structure = jax.tree_util.tree_flatten_with_path(request)
    specs = jax.tree.unflatten(structure, [spec(path, x) for path, x in leaves])
    return jax.shard_map(attend, in_specs=(specs,), out_specs=specs.query, check_vma=False)(request)


def _lies_with_places(path: tuple[Any, ...], request: HasHeads) -> bool:
    """Whether the second axis of one of the request's arrays may be cut up, if it has the places.

    Args:
      path: of the array in the request.
      request: the whole of it.
    """
    if request.query.ndim > 4:
        return True
    if not _has_places_apart(request):
        return False
    names = [entry.name for entry in path]
    return names in (["query"], ["mask"]) or names[:2] == ["mask", "queries"]


def _has_places_apart(request: HasHeads) -> bool:
    """Whether queries may be cut up: segments and `causal` say by its place which query it is."""
    segments, kind = getattr(request, "segment_ids", None), getattr(request, "mask_kind", "full")
    return request.query.ndim > 4 or (segments is None and kind == "full")


def _dividing(
    axes: tuple[str | None, ...], mesh: AbstractMesh, size: int
) -> tuple[str, ...] | None:
    """Those of the axes that the mesh has, if they divide a dimension of this size, else None."""
    present = tuple(axis for axis in axes if axis is not None and mesh.shape.get(axis, 1) > 1)
    parts = math.prod(mesh.shape[axis] for axis in present)
    return present if present and size % parts == 0 else None
