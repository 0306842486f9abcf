"""Compiles for the first device of this machine, and times what was compiled."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from stts_jax.parallel.mesh import make_mesh, on_mesh

# A group of calls takes at least this long, so that what a call costs the host doesn't count.
_GROUP_SECONDS = 0.02
_MOST_CALLS = 50
# Groups of slow programs are fewer.
_MOST_SECONDS = 1.5


@cache
def one_device() -> Mesh:
    """Returns the mesh of the first device alone: with more of them kernels want a mesh."""
    return make_mesh({"data": 1}, jax.devices()[:1])


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that is compiled for the first device."""
    return jax.jit(_on_one_device(function))


def shapes_of(function: Callable[..., Any], *arguments: Any) -> Any:
    """Returns `jax.eval_shape(function, *arguments)`, traced as for the first device."""
    return jax.eval_shape(_on_one_device(function), *arguments)


def _on_one_device(function: Callable[..., Any]) -> Callable[..., Any]:
    def run(*arguments: Any) -> Any:
        with on_mesh(one_device()):
            return function(*arguments)

    return run


def seconds_of(run: Callable[[], Any], rounds: int) -> float:
    """Returns the seconds of a call that has been compiled: the median of groups of calls.

    Args:
      run: returns arrays; has run before.
      rounds: groups of calls.
    """

    def timed(calls: int) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            out = run()
        jax.block_until_ready(out)
        return (time.perf_counter() - start) / calls

    once = timed(1)
    calls = max(1, min(round(_GROUP_SECONDS / once), _MOST_CALLS))
    groups = max(1, min(rounds, int(_MOST_SECONDS / once)))
    return float(np.median([timed(calls) for _ in range(groups)]))
