"""What the CPU that computes can do."""

from __future__ import annotations

import functools
from pathlib import Path

_LINUX = Path("/proc/cpuinfo")


@functools.cache
def has_avx512() -> bool:
    """Whether it has the instructions for 16 numbers at a time that XLA's products need."""
    if not _LINUX.is_file():
        return False
    lines = _LINUX.read_text().splitlines()
    flags = next((line for line in lines if line.startswith("flags")), "")
    return "avx512bw" in flags.split()
