"""The paper's baselines: scores that are not learnt, by the name of the method.

A new one is a file here, a line of `BASELINES`, and its name in `config.model.PruneMethod`.
"""

from __future__ import annotations

from collections.abc import Callable

import jax

from stts_jax.pruning.baselines.easy import easy_scores
from stts_jax.pruning.baselines.heuristic import heuristic_scores
from stts_jax.pruning.baselines.inputs import BaselineInputs
from stts_jax.pruning.baselines.random import random_scores

__all__ = ["BASELINES", "BaselineInputs", "baseline_scores"]

BASELINES: dict[str, Callable[[BaselineInputs], jax.Array]] = {
    "heuristic": heuristic_scores,
    "easy": easy_scores,
    "random": random_scores,
}


def baseline_scores(method: str, inputs: BaselineInputs) -> jax.Array:
    """Returns (B, T, P) float32 scores of a baseline, high for tokens to keep.

    Raises:
      ValueError: for a method that is none of `BASELINES`.
    """
    if method not in BASELINES:
        raise ValueError(f"pruning method '{method}' is unknown; use one of {', '.join(BASELINES)}")
    return BASELINES[method](inputs)
