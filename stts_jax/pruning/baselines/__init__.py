"""Baselines: scores that are not learnt, by the name of the method.

Each module here that has a function `scores` is the baseline of that name; one with a function
`targets` too merges the tokens that it drops. A new one is such a file, and its name in
`config.model.PruneMethod`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pkgutil import iter_modules

import jax
from jaxtyping import Array, Float, Int

from stts_jax.pruning.baselines.inputs import BaselineInputs

__all__ = ["BASELINES", "MERGING", "BaselineInputs", "baseline_scores", "merge_targets"]

_MODULES = {m.name: import_module(f"{__name__}.{m.name}") for m in iter_modules(__path__)}
BASELINES: dict[str, Callable[[BaselineInputs], jax.Array]] = {
    name: module.scores for name, module in _MODULES.items() if hasattr(module, "scores")
}
MERGING: dict[str, Callable[[BaselineInputs], jax.Array]] = {
    name: module.targets for name, module in _MODULES.items() if hasattr(module, "targets")
}


def baseline_scores(method: str, inputs: BaselineInputs) -> Float[Array, "B T P"]:
    """Returns (B, T, P) float32 scores of a baseline, high for tokens to keep.

    Raises:
      ValueError: for a method that is none of `BASELINES`.
    """
    if method not in BASELINES:
        raise ValueError(f"pruning method '{method}' is unknown; use one of {', '.join(BASELINES)}")
    return BASELINES[method](inputs)


def merge_targets(method: str, inputs: BaselineInputs) -> Int[Array, "B T P"] | None:
    """Returns the window of its frame that each one merges into if dropped, None without merging.

    Returns:
      (B, T, P) int32, see `merging.Merging`.
    """
    return MERGING[method](inputs) if method in MERGING else None
