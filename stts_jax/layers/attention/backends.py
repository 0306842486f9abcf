"""The ways to compute attention, best first, each with its reasons to refuse."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import jax

from stts_jax.layers.attention.blockwise import blockwise_attention
from stts_jax.layers.attention.dense import dense_attention
from stts_jax.layers.attention.masks import PlaceMask
from stts_jax.layers.attention.request import Request
from stts_jax.layers.attention.splash import splash_attention, splash_refusal

LOG = logging.getLogger(__name__)
# Fewer scores than this are made at once.
FEW_SCORES = 2**19


@dataclass(frozen=True)
class Backend:
    """One way.

    Attributes:
      name: to ask for it by.
      refusal: why it cannot do what is asked, or None.
      run: does it.
    """

    name: str
    refusal: Callable[[Request], str | None]
    run: Callable[[Request], jax.Array]


def xla_attention(request: Request) -> jax.Array:
    """Plain XLA, on any device: at once if there are few scores, else block by block."""
    request = request.with_one_mask()
    query, key, mask = request.query, request.key, request.mask
    scores = query.size // query.shape[-1] * key.shape[-3]
    if scores <= FEW_SCORES or query.shape[-3] == 1:
        mask = mask.array() if isinstance(mask, PlaceMask) else mask
        return dense_attention(query, key, request.value, mask=mask, key_bias=request.key_bias)
    return blockwise_attention(query, key, request.value, mask=mask, key_bias=request.key_bias)


BACKENDS = (
    Backend("splash", splash_refusal, splash_attention),
    Backend("xla", lambda request: None, xla_attention),
)


def choose(request: Request, name: str) -> Backend:
    """The backend asked for, or with `auto` the first that doesn't refuse; it is logged once.

    Raises:
      ValueError: for a name that there is not, or a backend that cannot do what is asked.
    """
    if name == "auto":
        refusals = []
        for backend in BACKENDS:
            reason = backend.refusal(request)
            if reason is None:
                _log(backend.name, tuple(refusals))
                return backend
            refusals.append(f"{backend.name}: {reason}")
    for backend in BACKENDS:
        if backend.name == name:
            if reason := backend.refusal(request):
                raise ValueError(
                    f"attention backend '{name}' cannot be used: {reason}; "
                    "backend='auto' takes the best one that can"
                )
            return backend
    known = ", ".join(["auto", *(backend.name for backend in BACKENDS)])
    raise ValueError(f"attention backend '{name}' is unknown; use one of {known}")


@cache
def _log(name: str, refusals: tuple[str, ...]) -> None:
    LOG.info("attention takes %s%s", name, "".join(f"; not {reason}" for reason in refusals))
