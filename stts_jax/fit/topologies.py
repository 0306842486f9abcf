"""Abstract devices by name, to compile for without having them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import jax
from jax.experimental import topologies

from stts_jax.config import ConfigError
from stts_jax.fit.hardware import CHIPS, GIB, USABLE_GPU_MEMORY, Chip
from stts_jax.parallel.memory import free_memory

EXAMPLES = (
    "v5e:4x4, v5e:16x16, v5p:2x2x2, v6e:2x4, v6e:16x16, 2*v6e:16x16 (two slices), h100:8, "
    "gpu:24GiB (any one GPU), cpu:24GiB, cpu (this machine)"
)
_N = r"[1-9]\d*"
_NAME = re.compile(
    rf"(?:({_N})\*)?((?:v5e|v6e):{_N}x{_N}|v5p:{_N}x{_N}x{_N})|h100:{_N}"
    rf"|(?:gpu|cpu):({_N}(?:\.\d+)?)(G|GB|GiB)|cpu",
)
_UNITS = {"G": GIB, "GiB": GIB, "GB": 10**9}

# An H100 80GB HBM3 in the compiler's own terms; there is no device to ask.
_H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 minor: 0 }
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 84978434048
  shared_memory_per_block_optin: 232448
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
# A GPU of up to 48 GiB: of the generation of an L4, L40 or GeForce RTX 4090, with the latter's
# figures.
_SMALLER = """
gpu_device_info {{
  cuda_compute_capability {{ major: 8 minor: 9 }}
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 102400
  threads_per_core_limit: 1536
  core_count: 128
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 1008000000000
  l2_cache_size: 75497472
  clock_rate_ghz: 2.52
  device_memory_size: {memory}
  shared_memory_per_block_optin: 101376
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "a GPU of compute capability 8.9"
"""
_LARGEST_SMALLER = 48 * GIB


@dataclass(frozen=True)
class Topology:
    """Abstract devices, all alike.

    Attributes:
      name: chip and shape.
      devices: of the mesh.
      chip: peak rates of one device.
    """

    name: str
    devices: Sequence[jax.Device]
    chip: Chip


def get_topology(name: str) -> Topology:
    """Returns the abstract devices of a topology.

    Args:
      name: chip and shape, such as `EXAMPLES`.

    Raises:
      ConfigError: for an unknown name, or where the compiler isn't installed.
    """
    matched = _NAME.fullmatch(name)
    if not matched:
        raise ConfigError(f"topology '{name}' is unknown; write chip and shape: {EXAMPLES}")
    kind, _, shape = name.partition(":")
    if kind == "cpu":
        return _cpu(name, _memory(matched))
    if kind == "gpu":
        return _gpu(name, _memory(matched))
    if kind == "h100":
        found = _cuda(name, shape, _H100)
    else:
        _require("libtpu", "tpu", name)
        # Otherwise it looks for the machine it runs on at a server of Google's cloud.
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
        # Otherwise one process of a machine may have it, as if it held the machine's chips.
        os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
        try:
            found = topologies.get_topology_desc(
                platform="tpu",
                topology_name=matched[2],
                chip_config_name="default",
                num_slices=int(matched[1] or 1),
                **_host_bounds(matched[2]),
            )
        except (RuntimeError, ValueError, NotImplementedError) as error:
            raise ConfigError(
                f"topology '{name}' is no slice that there is; use one such as {EXAMPLES}: {error}"
            ) from error
    devices: list[Any] = list(found.devices)
    return Topology(name, devices, CHIPS[devices[0].device_kind])


def _memory(matched: re.Match[str]) -> int:
    """Returns the bytes that a name gives, 0 if none."""
    return int(float(matched[3]) * _UNITS[matched[4]]) if matched[3] else 0


def _cpu(name: str, memory: int) -> Topology:
    """Returns this machine's CPU, with its own free memory if none is given."""
    (device,) = jax.devices("cpu")[:1]
    memory = memory or free_memory(device) or 0
    if not memory:
        raise ConfigError("this system doesn't say what memory is free; give it, as in cpu:24GiB")
    return Topology(name, [device], Chip("cpu", "cpu", 0.0, memory, 0.0, 0.0))


def _gpu(name: str, memory: int) -> Topology:
    """Returns one GPU of some memory, whose rates aren't known."""
    description = _H100 if memory > _LARGEST_SMALLER else _SMALLER.format(memory=memory)
    found = _cuda(name, "1", description)
    usable = int(USABLE_GPU_MEMORY * memory)
    return Topology(name, list(found.devices), Chip("gpu", "gpu", 0.0, usable, 0.0, 0.0))


def _cuda(name: str, count: str, description: str) -> Any:
    _require("jax_plugins.xla_cuda13", "cuda", name)
    return topologies.get_topology_desc(
        platform="cuda",
        topology_name=f"1x1x{count}",
        topology=f"1x1x{count}",
        target_config=description,
    )


def _host_bounds(name: str) -> dict[str, Any]:
    """Returns the host bounds of slices smaller than the 2 x 2 chips of a host."""
    width, height, *_ = (int(size) for size in name.partition(":")[2].split("x"))
    bounds = min(width, 2), min(height, 2), 1
    return {} if bounds == (2, 2, 1) else {"chips_per_host_bounds": bounds}


def _require(module: str, extra: str, name: str) -> None:
    try:
        found = find_spec(module) is not None
    except ModuleNotFoundError:
        found = False
    if not found:
        raise ConfigError(
            f"compiling for '{name}' needs the package '{module}'; install the extra: "
            f"pip install -e '.[{extra}]' in the clone (no such chip is needed)"
        )


@contextmanager
def tracing_for(platform: str) -> Iterator[None]:
    """Traces the model as on `platform`.

    Dtypes, padding and attention backends depend on `jax.default_backend()`, which names this
    machine and not the devices to compile for.
    """
    here = jax.default_backend
    jax.default_backend = lambda: platform
    try:
        yield
    finally:
        jax.default_backend = here
