"""A training step that only reads the frozen parameters of its state.

A donated argument is given up for the new state. Memory that a CPU computes with in place can't be,
so a frozen model that went through the step was copied; here it is neither donated nor returned.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from stts_jax.config import TrainConfig
from stts_jax.parallel.parameters import named_parameters, replace_parameters
from stts_jax.training.optimizer import is_trained


def frozen_step(
    step: Callable[..., Any],
    abstract: Any,
    config: TrainConfig,
    jit: Callable[..., Any],
    given: tuple[Any, ...],
    replicated: Any,
) -> FrozenStep:
    """Returns a step of a state with frozen parameters, compiled at its first call.

    Args:
      step: (state, *arguments) -> (state, metrics).
      abstract: the state, see `step.abstract_state`.
      config: says what is trained.
      jit: `jax.jit` with what it needs besides shardings; it donates the first argument.
      given: shardings of the arguments.
      replicated: sharding of the metrics.
    """
    names = frozenset(n for n in named_parameters(abstract.model) if is_trained(n, config))

    def of_trained(own: Any, frozen: dict[str, jax.Array], *arguments: Any) -> tuple[Any, Any]:
        whole = replace_parameters(abstract.model, frozen | own.model)
        new, metrics = step(dataclasses.replace(own, model=whole), *arguments)
        return _split(new, names)[0], metrics

    own, frozen = _split(jax.tree.map(lambda leaf: leaf.sharding, abstract), names)
    compiled = jit(of_trained, in_shardings=(own, frozen, *given), out_shardings=(own, replicated))
    return FrozenStep(compiled, names)


@dataclass(frozen=True)
class FrozenStep:
    """A compiled step of a state whose frozen parameters it doesn't return.

    Attributes:
      step: (state with the trained parameters by name as its model, frozen ones by name,
        *arguments) -> (the same state, metrics), compiled.
      trained: names of the trained parameters.
    """

    step: Any
    trained: frozenset[str]

    def __call__(self, state: Any, *arguments: Any) -> tuple[Any, Any]:
        """Makes the step of a whole state."""
        own, frozen = _split(state, self.trained)
        new, metrics = self.step(own, frozen, *arguments)
        model = replace_parameters(state.model, frozen | new.model)
        return dataclasses.replace(new, model=model), metrics

    def lower(self, state: Any, *arguments: Any) -> jax.stages.Lowered:
        """Lowers the step, see `jax.jit`."""
        lowered: jax.stages.Lowered = self.step.lower(*_split(state, self.trained), *arguments)
        return lowered


def _split(state: Any, trained: frozenset[str]) -> tuple[Any, dict[str, Any]]:
    """Returns a state with its trained parameters by name as its model, and the frozen ones."""
    named = named_parameters(state.model)
    frozen = {name: leaf for name, leaf in named.items() if name not in trained}
    own = {name: leaf for name, leaf in named.items() if name in trained}
    return dataclasses.replace(state, model=own), frozen
