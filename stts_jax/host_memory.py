"""Memory that a CPU computes in, kept from one step to the next."""

from __future__ import annotations

import ctypes
import sys
from importlib.util import find_spec

import jax

# Of glibc's malloc.h, mallopt(3).
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
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


def _computes_here() -> bool:
    """Whether JAX will compute on the CPU, without starting it."""
    if jax.config.jax_platforms:
        return jax.config.jax_platforms.split(",")[0] == "cpu"
    return not any(find_spec(package) for package in _ACCELERATORS)
