"""Ordered ways to do one thing: the first that doesn't refuse is taken, and why is logged."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Generic, TypeVar

import jax

LOG = logging.getLogger(__name__)
R = TypeVar("R")


@dataclass(frozen=True)
class Backend(Generic[R]):
    """One way.

    Attributes:
      name: to ask for it by.
      refusal: why it cannot do what is asked, or None.
      run: does it.
    """

    name: str
    refusal: Callable[[R], str | None]
    run: Callable[[R], jax.Array]


def choose(backends: Sequence[Backend[R]], what: str, request: R, name: str) -> Backend[R]:
    """The backend asked for, or with `auto` the first that doesn't refuse; it is logged once.

    Args:
      backends: best first.
      what: they do, for messages.
      request: what is asked of them.
      name: of one of them, or `auto`.

    Raises:
      ValueError: for a name that there is not, or a backend that cannot do what is asked.
    """
    if name == "auto":
        refusals = []
        for backend in backends:
            reason = backend.refusal(request)
            if reason is None:
                _log(what, backend.name, tuple(refusals))
                return backend
            refusals.append(f"{backend.name}: {reason}")
        raise ValueError(f"no backend of {what} can do this: {'; '.join(refusals)}")
    for backend in backends:
        if backend.name == name:
            if reason := backend.refusal(request):
                raise ValueError(
                    f"{what} backend '{name}' cannot be used: {reason}; "
                    "backend='auto' takes the best one that can"
                )
            return backend
    known = ", ".join(["auto", *(backend.name for backend in backends)])
    raise ValueError(f"{what} backend '{name}' is unknown; use one of {known}")


@cache
def _log(what: str, name: str, refusals: tuple[str, ...]) -> None:
    LOG.info("%s takes %s%s", what, name, "".join(f"; not {reason}" for reason in refusals))


def kernel_refusal(platform: str) -> str | None:
    """Why a kernel for this platform cannot run, or None: other devices, or nobody cuts it up."""
    here = jax.default_backend()
    if here != platform:
        return f"it needs a {platform.upper()}, and this is a {here}"
    mesh = jax.sharding.get_abstract_mesh()
    is_one = bool(mesh.manual_axes) or (not mesh.empty and mesh.size == 1)
    if jax.device_count() > 1 and not is_one:
        return f"there are {jax.device_count()} devices, and no mesh is set that says who has what"
    return None
