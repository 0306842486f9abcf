"""Detects steps whose loss or gradient norm jumps, inside the compiled step, to skip them."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

# Decay of the running means per step: they are over some 50 steps.
_DECAY = 0.98
# No step is skipped before so many steps: a mean of few says little.
HISTORY = 20


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SpikeState:
    """Running means over the steps that were not skipped.

    Attributes:
      loss, norm: () float32, decayed sums of the loss and of the norm of the whole gradient.
      weight: () float32, by which these sums are divided.
      taken, skipped: () int32, numbers of steps so far.
    """

    loss: jax.Array
    norm: jax.Array
    weight: jax.Array
    taken: jax.Array
    skipped: jax.Array


def init_spike_state() -> SpikeState:
    """Returns the state before the first step."""
    zero, none = jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32)
    return SpikeState(zero, zero, zero, none, none)


def detect_spike(
    state: SpikeState, loss: jax.Array, norm: jax.Array, factor: float
) -> tuple[jax.Array, SpikeState]:
    """Returns whether a step is a spike, and the state after it.

    A loss that is NaN is no spike: it stops the run.

    Args:
      state: before the step.
      loss: () of the step.
      norm: () of the step's whole gradient.
      factor: a loss or norm above this multiple of its running mean is a spike.

    Returns:
      () bool, and the next state; a spike is not added to the means.
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
    skipped = SpikeState(state.loss, state.norm, state.weight, state.taken, state.skipped + 1)
    return spike, optax.tree.where(spike, skipped, after)
