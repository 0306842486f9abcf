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

from stts_jax.parallel.parameters import named_parameters, replace_parameters


@dataclass(frozen=True)
class FrozenStep:
    """A compiled step of a state whose frozen parameters it doesn't return.

    Attributes:
      step: (state with the trained parameters as its model, frozen ones by name, batch, key,
        teacher) -> (the same state, metrics), compiled.
      trained: names of the trained parameters.
      more: further arguments: the teacher, if there is one.
    """

    step: Any
    trained: frozenset[str]
    more: tuple[Any, ...] = ()

    def __call__(self, state: Any, batch: Any, key: jax.Array) -> tuple[Any, Any]:
        """Makes the step."""
        own, frozen = split_state(state, self.trained)
        new, metrics = self.step(own, frozen, batch, key, *self.more)
        model = replace_parameters(state.model, frozen | new.model)
        return dataclasses.replace(new, model=model), metrics

    def lower(self, state: Any, batch: Any, key: jax.Array) -> jax.stages.Lowered:
        """Lowers the step, see `jax.jit`."""
        lowered: jax.stages.Lowered = self.step.lower(
            *split_state(state, self.trained), batch, key, *self.more
        )
        return lowered


def split_state(state: Any, trained: frozenset[str]) -> tuple[Any, dict[str, Any]]:
    """Returns a state with its trained parameters by name as its model, and the frozen ones."""
    named = named_parameters(state.model)
    frozen = {name: leaf for name, leaf in named.items() if name not in trained}
    own = {name: leaf for name, leaf in named.items() if name in trained}
    return dataclasses.replace(state, model=own), frozen


def on_trained(step: Callable[..., Any], model: Any) -> Callable[..., Any]:
    """Returns a step of whole states as the one that `FrozenStep` compiles.

    Args:
      step: (state, batch, key, teacher) -> (state, metrics).
      model: whose structure the model of the state has.
    """

    def of_trained(
        own: Any, frozen: dict[str, jax.Array], *arguments: Any
    ) -> tuple[Any, dict[str, jax.Array]]:
        whole = replace_parameters(model, frozen | own.model)
        new, metrics = step(dataclasses.replace(own, model=whole), *arguments)
        named = named_parameters(new.model)
        return dataclasses.replace(new, model={n: named[n] for n in own.model}), metrics

    return of_trained
