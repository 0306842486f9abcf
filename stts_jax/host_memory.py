"""Allocator settings of glibc for computing on a CPU."""

from __future__ import annotations

import ctypes
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import jax

# Options of mallopt(3), from glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
# Fraction of the machine's memory.
MUCH = 0.5
# Packages by which JAX finds an accelerator.
_ACCELERATORS = ("jax_plugins", "libtpu")


def keep_freed_memory() -> None:
    """Makes the C library keep freed memory for the next step, where a CPU computes.

    XLA allocates the buffers of a program each time it runs. glibc returns blocks of that size to
    Linux at once and gets them back page by page, each filled with zeros: a tenth of a forward
    pass. To be called before JAX starts its threads. Does nothing without glibc, or where an
    accelerator could compute, whose host has many threads that should not share one arena.
    """
    if sys.platform != "linux" or not _computes_here():
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        # No separate mappings for large blocks, no arena for each thread (those are returned
        # whole), and no trimming.
        for option, value in ((_MMAP_MAX, 0), (_ARENA_MAX, 1), (_TRIM_THRESHOLD, -1)):
            mallopt(option, value)


def give_back_much() -> None:
    """Returns freed memory to Linux, if this process holds more than half of the machine's.

    To be called before a different program runs: its blocks may not fit into those of the last
    one, and memory kept for both could exceed the machine's.
    """
    if sys.platform != "linux":
        return
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None and pages > MUCH * os.sysconf("SC_PHYS_PAGES"):
        trim(0)


def _computes_here() -> bool:
    """Returns whether JAX will compute on the CPU, without starting it."""
    wanted: str | None = getattr(jax.config, "jax_platforms", None)
    if wanted:
        return wanted.split(",")[0] == "cpu"
    return not any(find_spec(package) for package in _ACCELERATORS)
