"""Describes this machine: processor, memory, versions and devices. No names of users or hosts."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from stts_jax.doctor.results import without_folders

_PACKAGES = (
    *("stts-jax", "jax", "jaxlib", "flax", "optax", "numpy", "ml-dtypes"),
    *("libtpu", "jax-cuda12-plugin", "jax-cuda13-plugin", "jax-cuda12-pjrt", "jax-cuda13-pjrt"),
    *("nvidia-cudnn-cu12", "nvidia-cudnn-cu13", "nvidia-cublas", "nvidia-cublas-cu12"),
    *("jax-rocm7-plugin", "jax-rocm60-plugin"),
)
# Those that decide which products a processor has.
_FEATURES = (
    *("avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512_bf16"),
    *("avx512_fp16", "avx_vnni", "avx512_vnni", "amx_tile", "amx_bf16", "amx_int8"),
    *("asimd", "asimdhp", "sve", "bf16", "i8mm"),
)
# Environment that changes what JAX does.
_VARIABLES = ("JAX_PLATFORMS", "XLA_FLAGS", "LIBTPU_INIT_ARGS", "XLA_PYTHON_CLIENT_MEM_FRACTION")
_CPUINFO, _MEMINFO = Path("/proc/cpuinfo"), Path("/proc/meminfo")
_DRIVER = Path("/proc/driver/nvidia/version")


def machine() -> dict[str, Any]:
    """Returns what can be said of the machine without starting JAX, as plain values."""
    cpu = _colon_lines(_CPUINFO)
    flags = set((cpu.get("flags") or cpu.get("Features") or "").split())
    memory = _colon_lines(_MEMINFO)
    return {
        "system": platform.platform(),
        "python": platform.python_version(),
        "cpu": cpu.get("model name") or platform.processor() or platform.machine(),
        "cpu_features": [name for name in _FEATURES if name in flags],
        "cores": _cores(),
        "memory_bytes": _kib(memory.get("MemTotal")),
        "memory_available_bytes": _kib(memory.get("MemAvailable")),
        # Of the last 1, 5 and 15 minutes, before anything of ours ran.
        "load": [round(load, 2) for load in os.getloadavg()],
        "nvidia_driver": _nvidia_driver(),
        "packages": packages(),
        "environment": {
            name: without_folders(os.environ[name]) for name in _VARIABLES if name in os.environ
        },
    }


def packages() -> dict[str, str]:
    """Returns the versions of the packages that compute, of those that are installed."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def devices() -> list[dict[str, Any]]:
    """Returns the devices that JAX has, as plain values; starts JAX."""
    import jax

    from stts_jax.parallel.memory import device_memory, free_memory

    return [
        {
            "kind": device.device_kind,
            "platform": device.platform,
            "platform_version": str(getattr(device.client, "platform_version", "")),
            "compute_capability": getattr(device, "compute_capability", None),
            "memory_bytes": device_memory(device),
            "memory_free_bytes": free_memory(device),
        }
        for device in jax.local_devices()
    ]


def _cores() -> int | None:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count()


def _nvidia_driver() -> str | None:
    if not _DRIVER.exists():
        return None
    found = re.search(r"Kernel Module\s+(?:for \S+\s+)?([\d.]+)", _DRIVER.read_text())
    return found.group(1) if found else None


def _colon_lines(path: Path) -> dict[str, str]:
    """Returns the first value of each key of a file of `key: value` lines."""
    found: dict[str, str] = {}
    if path.exists():
        for line in path.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            found.setdefault(key.strip(), value.strip())
    return found


def _kib(text: str | None) -> int | None:
    return 1024 * int(text.split()[0]) if text else None
