"""Steps whose loss or gradient norm jumps: they can be left out, inside the compiled step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import jax
import jax.numpy as jnp

T = TypeVar("T")
# The running means forget by this factor a step, so they look back some 50 steps.
_DECAY = 0.98
# Steps before anything is left out: a mean of few says little.
HISTORY = 20


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SpikeState:
    """Running means of the steps that were taken.

    Attributes:
      loss, norm: () float32, decayed sums of the loss and of the norm of the whole gradient.
      weight: () float32, what these sums are to be divided by.
      taken, skipped: () int32, steps so far.
    """

    loss: jax.Array
    norm: jax.Array
    weight: jax.Array
    taken: jax.Array
    skipped: jax.Array


def fresh_spikes() -> SpikeState:
    """Before the first step."""
    zero, none = jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32)
    return SpikeState(zero, zero, zero, none, none)


def watch(
    state: SpikeState, loss: jax.Array, norm: jax.Array, factor: float
) -> tuple[jax.Array, SpikeState]:
    """Whether a step is a spike, and the means after it.

    What is not a number is no spike: it stops the run.

    Args:
      state: so far.
      loss: () of the step.
      norm: () of the step's whole gradient.
      factor: how many times a running mean is too much.

    Returns:
      () bool, and the next state; a spike doesn't enter the means.
    """
    weight = jnp.maximum(state.weight, 1e-6)
    high = (loss > factor * state.loss / weight) | (norm > factor * state.norm / weight)
    spike = high & (state.taken >= HISTORY)
    after = SpikeState(
        loss=_DECAY * state.loss + loss,
        norm=_DECAY * state.norm + norm,
        weight=_DECAY * state.weight + 1,
        taken=state.taken + 1,
        skipped=state.skipped,
    )
    left_out = SpikeState(state.loss, state.norm, state.weight, state.taken, state.skipped + 1)
    return spike, choose(spike, left_out, after)


def choose(condition: jax.Array, one: T, other: T) -> T:
    """`one` where a () bool holds, else `other`, leaf by leaf."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), one, other)
