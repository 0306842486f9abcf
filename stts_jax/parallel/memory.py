"""Finds how much memory the devices of this machine have free, and what parameters take of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import jax

_MEMINFO = Path("/proc/meminfo")
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def device_memory(device: jax.Device) -> int | None:
    """Returns the bytes of memory of a device, None if unknown (CPUs)."""
    statistics = device.memory_stats() if device.platform != "cpu" else None
    return statistics.get("bytes_limit") if statistics else None


def free_memory(device: jax.Device) -> int | None:
    """Returns the bytes that a program can still take on a device, None where it doesn't tell.

    Of a CPU it is the memory of the machine that Linux can give, or the limit of the container.
    """
    if device.platform != "cpu":
        total = device_memory(device)
        return None if total is None else total - device.memory_stats().get("bytes_in_use", 0)
    found = []
    if _MEMINFO.exists():
        lines = (line.split() for line in _MEMINFO.read_text().splitlines())
        found += [1024 * int(line[1]) for line in lines if line[0] == "MemAvailable:"]
    if _CGROUP_LIMIT.exists() and (limit := _CGROUP_LIMIT.read_text().strip()).isdigit():
        found.append(int(limit))
    return min(found, default=None)


def gigabytes(count: int) -> str:
    """Formats a count of bytes: `8.9 GB`, `12.3 MB`."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def bytes_per_device(tree: Any) -> int:
    """Returns the bytes of a tree of sharded arrays on the device that has the most."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * _itemsize(leaf.dtype)
        for leaf in jax.tree.leaves(tree)
    )


def _itemsize(dtype: Any) -> int:
    return 16 if jax.dtypes.issubdtype(dtype, jax.dtypes.extended) else dtype.itemsize


def bytes_on_a_device(arrays: Any, shardings: Any) -> int:
    """Returns the bytes of arrays that one device holds; all devices of a CPU share one memory.

    Args:
      arrays: a pytree of arrays or their shapes.
      shardings: of the same structure.
    """
    leaves = zip(jax.tree.leaves(arrays), jax.tree.leaves(shardings), strict=True)
    return sum(
        leaf.dtype.itemsize
        * math.prod(
            leaf.shape
            if next(iter(sharding.device_set)).platform == "cpu"
            else sharding.shard_shape(leaf.shape)
        )
        for leaf, sharding in leaves
    )
