"""The device mesh, and the sharding of arrays: one table from logical axes to mesh axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar, cast

import jax
import numpy as np
from flax import nnx
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from stts_jax.config import ConfigError

T = TypeVar("T")

# `data` replicates the parameters, `fsdp` shards them and gathers them layer by layer, `tensor`
# shards heads and hidden widths, `context` shards rows: the frames of the ViT, the tokens of the
# LLM. The batch is sharded over `data` and `fsdp`.
MESH_AXES = ("data", "fsdp", "tensor", "context")
BATCH_AXES = ("data", "fsdp")
CONTEXT_AXIS = "context"

# Every logical axis name that `parameter(..., axes=...)` is given, and its mesh axis.
LOGICAL_AXES: dict[str, str | None] = {
    "embed": "fsdp",
    "mlp_in": "fsdp",
    "mlp": "tensor",
    "heads": "tensor",
    "kv_heads": "tensor",
    "vocab": "tensor",
    "patch": None,
    "norm": None,
}


def make_mesh(
    shape: Mapping[str, int] | None = None, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """Makes a mesh with all of `MESH_AXES`.

    Args:
      shape: devices along each axis, 1 where not given; by default all devices on `data`.
      devices: those to use, by default all.

    Raises:
      ConfigError: for an unknown axis, or where the shape doesn't use all devices or doesn't fit
        their slices.
    """
    devices = jax.devices() if devices is None else list(devices)
    shape = {"data": len(devices)} if shape is None else shape
    for axis in shape:
        if axis not in MESH_AXES:
            raise ConfigError(f"mesh axis '{axis}' is unknown; choose from {', '.join(MESH_AXES)}")
    sizes = tuple(shape.get(axis, 1) for axis in MESH_AXES)
    if min(sizes) < 1 or math.prod(sizes) != len(devices):
        raise ConfigError(
            f"a mesh of {dict(shape)} takes {math.prod(sizes)} devices but there are "
            f"{len(devices)}; make the product of its axes {len(devices)}"
        )
    # Explicit axes would type-check the sharding of every operation.
    automatic = (AxisType.Auto,) * len(sizes)
    return Mesh(_arranged(sizes, devices), MESH_AXES, axis_types=automatic)


def slices_of(devices: Sequence[jax.Device]) -> int:
    """Returns the number of TPU slices or GPU hosts, which only a network connects."""
    return len({getattr(device, "slice_index", 0) for device in devices})


def _arranged(sizes: tuple[int, ...], devices: Sequence[jax.Device]) -> np.ndarray:
    """Arranges devices in the mesh's shape, so that neighbours along an axis are well connected.

    Unlike `jax.make_mesh`, this splits the torus of any chip (128 of v6e:16x16, say), and takes
    several slices, which are connected along `data`, or `fsdp` where `data` can't.
    """
    slices = slices_of(devices)
    if slices == 1:
        return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    joining = [axis for axis in BATCH_AXES if sizes[MESH_AXES.index(axis)] % slices == 0]
    if not joining:
        raise ConfigError(
            f"the mesh {dict(zip(MESH_AXES, sizes, strict=True))} can't span {slices} slices or "
            f"hosts; make data (or else fsdp) a multiple of {slices}"
        )
    joined = tuple(slices if axis == joining[0] else 1 for axis in MESH_AXES)
    within = tuple(size // count for size, count in zip(sizes, joined, strict=True))
    return mesh_utils.create_hybrid_device_mesh(
        within, joined, devices, allow_split_physical_axes=True
    )


def on_one_device() -> bool:
    """Returns whether the code being traced runs on one device: no larger mesh is set around it."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.empty or bool(mesh.manual_axes) or mesh.size == 1


def partition_spec(
    logical_axes: Sequence[str | None], shape: Sequence[int], mesh: Mesh, name: str = "a parameter"
) -> PartitionSpec:
    """Returns the sharding of an array with these logical axes.

    Args:
      logical_axes: one name (or None) for each of the last dimensions.
      shape: of the array; dimensions in front of the named ones (stacked layers) are replicated,
        as is a dimension that its mesh axis doesn't divide.
      mesh: the mesh.
      name: of the array, for errors.

    Raises:
      ValueError: for a name that `LOGICAL_AXES` lacks, or two dimensions on one mesh axis.
    """
    spec: list[str | None] = [None] * (len(shape) - len(logical_axes))
    used: set[str] = set()
    for logical, size in zip(logical_axes, shape[len(spec) :], strict=True):
        if logical is not None and logical not in LOGICAL_AXES:
            raise ValueError(
                f"logical axis '{logical}' of {name} is unknown; add it to LOGICAL_AXES"
            )
        axis = None if logical is None else LOGICAL_AXES[logical]
        if axis is None:
            spec.append(None)
            continue
        if axis in used:
            raise ValueError(
                f"{name} has two dimensions on mesh axis '{axis}': its logical axes are "
                f"{tuple(logical_axes)}; give one of them another name"
            )
        used.add(axis)
        divides = mesh.shape[axis] > 1 and size % mesh.shape[axis] == 0
        spec.append(axis if divides else None)
    return PartitionSpec(*spec)


def parameter_shardings(model: T, mesh: Mesh) -> T:
    """Returns the shardings of all parameters, in the structure of the model.

    Args:
      model: a model or an abstract one (`jax.eval_shape`).
      mesh: the mesh.
    """
    variables = jax.tree_util.tree_flatten_with_path(
        model, is_leaf=lambda x: isinstance(x, nnx.Variable)
    )[0]
    shardings = [
        NamedSharding(
            mesh,
            partition_spec(
                variable.logical_axes,
                variable.shape,
                mesh,
                jax.tree_util.keystr(path, simple=True, separator="."),
            ),
        )
        for path, variable in variables
    ]
    return jax.tree.unflatten(jax.tree.structure(model), shardings)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding with a whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding with rows over `data` and `fsdp`, and all else whole."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def on_mesh(mesh: Mesh | None) -> AbstractContextManager[Any]:
    """Returns a context in which traced code knows the mesh that it will run on.

    Args:
      mesh: the mesh of the arrays; None if there is none.
    """
    if mesh is None:
        return nullcontext()
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def shard_activations(x: jax.Array) -> jax.Array:
    """Shards an activation: rows over `data` and `fsdp`, the second axis over `context`.

    Without this the compiler may shard activations as it does parameters, by width with every row
    on every device. Does nothing outside of `on_mesh`, nor if the rows don't divide evenly.

    Args:
      x: (B, n, ...); n tokens, frames or bins, replicated where `context` doesn't divide n.
    """
    context = jax.sharding.get_abstract_mesh().shape.get(CONTEXT_AXIS, 1)
    return _constrained(x, CONTEXT_AXIS if x.shape[1] % context == 0 else None)


def shard_rows(x: jax.Array) -> jax.Array:
    """Shards only the rows of an activation, for code that reads whole rows repeatedly."""
    return _constrained(x)


def _constrained(x: jax.Array, *axes: str | None) -> jax.Array:
    sizes = jax.sharding.get_abstract_mesh().shape
    if math.prod(sizes.values()) == 1 or x.shape[0] % math.prod(sizes[axis] for axis in BATCH_AXES):
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(BATCH_AXES, *axes))


def require_even_rows(rows: int, mesh: Mesh, accumulate: int = 1) -> None:
    """Raises a `ConfigError` if the devices can't share each of `accumulate` parts of the rows."""
    devices = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    if rows % (devices * accumulate):
        sharers = f"{devices} devices" if devices > 1 else "1 device"
        parts = f" in {accumulate} parts (train.accumulate)" if accumulate > 1 else ""
        raise ConfigError(
            f"data.batch_rows is {rows}, which {sharers} can't share evenly{parts}; make "
            f"it a multiple of {devices * accumulate}"
        )


def mesh_of(model: Any) -> Mesh | None:
    """Returns the mesh of a model's parameters, None if they have none."""
    sharding = getattr(jax.tree.leaves(model)[0], "sharding", None)
    return cast(Mesh, sharding.mesh) if isinstance(sharding, NamedSharding) else None


def rows_for(rows: int, mesh: Mesh | None) -> int:
    """Returns `rows`, rounded up to a multiple that the devices share evenly."""
    parts = 1 if mesh is None else math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    return -(-rows // parts) * parts


def sharded_shapes(shapes: Any, shardings: Any) -> Any:
    """Returns abstract arrays from a pytree of shapes and one of their shardings."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings,
    )


def put_whole_batch(batch: T, mesh: Mesh | None) -> T:
    """Puts a batch on the devices, where every process has all rows of it.

    Args:
      batch: pytree of NumPy arrays, rows first.
      mesh: the mesh; rows go over `data` and `fsdp` if they divide evenly, else to every device.
        None for the default device.
    """
    if mesh is None:
        return jax.tree.map(jax.numpy.asarray, batch)
    rows = jax.tree.leaves(batch)[0].shape[0]
    sharding = batch_sharding(mesh) if rows == rows_for(rows, mesh) else replicated(mesh)
    return jax.tree.map(
        lambda array: jax.make_array_from_callback(array.shape, sharding, array.__getitem__), batch
    )


def shard_batch(batch: T, mesh: Mesh) -> T:
    """Puts a batch on the devices, rows over `data` and `fsdp`.

    Args:
      batch: pytree of NumPy arrays, rows first; this process's part of the rows.
      mesh: the mesh.

    Returns:
      The same tree of jax.Arrays with all processes' rows.
    """
    sharding = batch_sharding(mesh)
    return jax.tree.map(
        lambda array: jax.make_array_from_process_local_data(sharding, array), batch
    )
