"""Memory that a CPU computes in, kept from one step to the next."""

from __future__ import annotations

import ctypes
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import jax

# Of glibc's malloc.h, mallopt(3).
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
# Of the machine's memory.
MUCH = 0.5
# Packages by which JAX finds an accelerator.
_ACCELERATORS = ("jax_plugins", "libtpu")


def keep_freed_memory() -> None:
    """Let the C library keep for the next step what a step has freed, where a CPU computes.

    XLA allocates what a program needs anew each time it runs. glibc gives blocks of that size back
    to Linux at once and gets them again page by page, each filled with zeros: a tenth of a forward
    pass. It must be told before JAX starts its threads. Does nothing where there is no glibc, or
    an accelerator could compute: its host's many threads shall not share one pool of memory.
    """
    if sys.platform != "linux" or not _computes_here():
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        # No blocks of their own for what is large, no pool of its own for each thread (those are
        # given back whole), and nothing given back.
        for option, value in ((_MMAP_MAX, 0), (_ARENA_MAX, 1), (_TRIM_THRESHOLD, -1)):
            mallopt(option, value)


def give_back_much() -> None:
    """Give freed memory back to Linux, if this process holds more than half of the machine's.

    To be called before another program than the last one runs: its blocks may not fit where those
    of the last one were, and what is kept for both could be more than there is.
    """
    if sys.platform != "linux":
        return
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None and pages > MUCH * os.sysconf("SC_PHYS_PAGES"):
        trim(0)


def _computes_here() -> bool:
    """Whether JAX will compute on the CPU, without starting it."""
    wanted: str | None = getattr(jax.config, "jax_platforms", None)
    if wanted:
        return wanted.split(",")[0] == "cpu"
    return not any(find_spec(package) for package in _ACCELERATORS)
