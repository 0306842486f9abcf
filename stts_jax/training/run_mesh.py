"""Makes the mesh of a run from its config and the memory of a device."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import jax
from jax.sharding import Mesh

from stts_jax.config import Config, ConfigError
from stts_jax.model.video_language_model import abstract_model
from stts_jax.parallel.memory import device_memory
from stts_jax.parallel.mesh import make_mesh, require_even_rows, slices_of
from stts_jax.parallel.parameters import count_parameters
from stts_jax.train_ratios import step_budget

# Float32 parameters, gradients and two moments; or a frozen base and little else.
_BYTES_TO_TRAIN, _BYTES_OF_BASE = 16, 3
# Parameters, most of them in bfloat16, and XLA's copies.
_BYTES_TO_ANSWER = 3
# Above these shares of a device's memory the state is sharded; the rest is for activations, and
# answers need far fewer of them. Sharded parameters are gathered for every token.
_LARGE_STATE, _LARGE_PARAMETERS = 0.25, 0.5


def run_mesh(config: Config, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns the mesh that a run is trained on.

    Args:
      config: `train.mesh` has the number of devices along each axis; see `MeshConfig`.
      devices: to use, by default all.

    Raises:
      ConfigError: if the product of the axes is not the number of devices, or they can't share
        rows, heads, widths or the tokens of a row.
    """
    devices = jax.devices() if devices is None else list(devices)
    memory, slices = device_memory(devices[0]), slices_of(devices)
    mesh = make_mesh(mesh_shape(config, len(devices), memory, slices), devices)
    require_even_shares(config, mesh)
    return mesh


def require_even_shares(config: Config, mesh: Mesh) -> None:
    """Raises a `ConfigError` if the mesh can't share rows, heads, widths or tokens of a row."""
    require_even_rows(config.data.batch_rows, mesh, config.train.accumulate)
    _require_even_widths(config, mesh.shape["tensor"])
    _require_even_tokens(config, mesh.shape["context"])


def mesh_shape(
    config: Config, devices: int, memory: int | None = None, slices: int = 1
) -> dict[str, int]:
    """Returns the number of devices along each axis.

    Args:
      config: of the run.
      devices: number of devices.
      memory: bytes of each of them, None where unknown.
      slices: number of TPU slices; parameters are sharded within one, as the network between
        them is slow.

    Raises:
      ConfigError: if the product of `train.mesh` is not the number of devices.
    """
    wanted = config.train.mesh
    shape = {axis: getattr(wanted, axis) for axis in ("data", "fsdp", "tensor", "context")}
    given = math.prod(size for size in shape.values() if size)
    open_axes = [axis for axis, size in shape.items() if not size]
    if devices % given or (not open_axes and given != devices):
        raise ConfigError(
            f"train.mesh is {_text(shape)}, which is {given} devices, but there are {devices}; "
            "make the product of its axes that number, or set data or fsdp to 0 to take what is "
            "left"
        )
    if len(open_axes) == 2:
        held = _BYTES_OF_BASE if config.train.has_base else _BYTES_TO_TRAIN
        if _fills(config, memory, held, _LARGE_STATE):
            shape["fsdp"] = even_fsdp(config, max(devices // slices // given, 1))
            given *= shape["fsdp"]
        open_axes = ["data"]
    for axis, size in shape.items():
        if not size:
            shape[axis] = devices // given if axis in open_axes else 1
    return shape


def even_fsdp(config: Config, devices: int) -> int:
    """Returns the most devices along `fsdp`, a divisor of `devices` and of ViT's and LLM's widths.

    A width that the axis doesn't divide would leave its parameters whole on every device: the ViT's
    1152 on 256 devices, for example, which takes 128.
    """
    return math.gcd(config.model.vit.width, config.model.llm.width, devices)


def even_tensor(config: Config) -> int:
    """Returns the number that `tensor` must divide to shard heads and widths evenly."""
    return math.gcd(*_tensor_sizes(config).values())


def answering_mesh(config: Config) -> Mesh:
    """Returns the mesh of this process's devices for a model that answers.

    Every device has a copy of the parameters, unless they fill much of it: then they are sharded.
    """
    devices = jax.local_devices()
    return make_mesh(answering_shape(config, len(devices), device_memory(devices[0])), devices)


def answering_shape(config: Config, devices: int, memory: int | None = None) -> dict[str, int]:
    """Returns the axis of `answering_mesh` and its size; arguments as of `mesh_shape`."""
    large = _fills(config, memory, _BYTES_TO_ANSWER, _LARGE_PARAMETERS)
    return {"fsdp" if large else "data": devices}


def _fills(config: Config, memory: int | None, bytes_a_parameter: int, share: float) -> bool:
    if memory is None:
        return False
    model = abstract_model(config.model)
    return count_parameters(model) * bytes_a_parameter > share * memory


def _tensor_sizes(config: Config) -> dict[str, int]:
    model = config.model
    return {
        "model.llm.heads": model.llm.heads,
        "model.llm.kv_heads": model.llm.kv_heads,
        "model.llm.mlp_width": model.llm.mlp_width,
        "model.vit.heads": model.vit.heads,
        "model.vit.mlp_width": model.vit.mlp_width,
    }


def _require_even_widths(config: Config, tensor: int) -> None:
    for name, size in _tensor_sizes(config).items():
        if size % tensor:
            raise ConfigError(
                f"train.mesh.tensor is {tensor}, but {name} is {size}, no multiple of it; choose a "
                f"divisor of {even_tensor(config)}"
            )


def _require_even_tokens(config: Config, context: int) -> None:
    tokens = step_budget(config, config.model.prune.topk).tokens
    missing = -tokens % context
    if missing:
        raise ConfigError(
            f"train.mesh.context is {context}, which can't share the {tokens} tokens of a row "
            f"evenly; set data.row_text_tokens={config.data.row_text_tokens + missing}"
        )


def _text(shape: Mapping[str, int]) -> str:
    return "{" + ", ".join(f"{axis} = {size}" for axis, size in shape.items()) + "}"
