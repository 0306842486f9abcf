"""The ratio of each training step, and the sizes of its rows.

A run over several ratios (`model.prune.train_ratios`) draws one a step. The draw depends on the
seed and on the number of the step alone, so that all hosts have the same, a resumed run goes on
with it, and the data pipeline knows the ratio of a row when it packs it.

A row holds as many frames at every ratio: the arrays of a batch have the same shapes, and a high
ratio makes a step cheaper. The blocks before the drop run on all frames, so that more videos in a
row would cost as much more there, and in decoding, and no two ratios would share a shape.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from stts_jax.budget import Budget, row_budget
from stts_jax.config import Config, ConfigError, ModelConfig, PruneConfig

# Keeps these draws apart from others of the same seed.
_STREAM = 0x5A710


@dataclass(frozen=True)
class RatioDraw:
    """Draws the ratio of each step.

    Attributes:
      ratios: to draw from.
      weights: how often each is drawn, in proportion.
      seed: of the run.
    """

    ratios: tuple[float, ...]
    weights: tuple[float, ...]
    seed: int

    @staticmethod
    def of(config: Config) -> RatioDraw:
        """Returns the draw of a run; one at a fixed ratio always draws that."""
        prune = config.model.prune
        ratios = prune.train_ratios or (prune.topk,)
        weights = prune.train_ratio_weights or (1.0,) * len(ratios)
        return RatioDraw(ratios, weights, config.train.seed)

    @property
    def lowest(self) -> float:
        """Returns the ratio whose step takes most memory."""
        return min(self.ratios)

    def ratio_of(self, step: int) -> float:
        """Returns the ratio of a step, 0 for the first."""
        if len(self.ratios) == 1:
            return self.ratios[0]
        ends = np.cumsum(np.array(self.weights, np.float64))
        (bits,) = np.random.SeedSequence([self.seed, step, _STREAM]).generate_state(1, np.uint64)
        point = float(bits) / 2.0**64 * ends[-1]
        return self.ratios[min(int(np.searchsorted(ends, point, "right")), len(ends) - 1)]

    def mean(self, of_ratio: Mapping[float, float]) -> float:
        """Returns the mean over steps of what each ratio has."""
        weighted = (of_ratio[r] * w for r, w in zip(self.ratios, self.weights, strict=True))
        return sum(weighted) / sum(self.weights)

    def by_first_use(self, start: int, steps: int) -> list[float]:
        """Returns the ratios of the steps from `start` to below `steps`, each once, in order."""
        return _without_repeats((self.ratio_of(s) for s in range(start, steps)), len(self.ratios))


@dataclass(frozen=True)
class StepSizes:
    """The sizes of the rows of each step.

    Attributes:
      draw: of the ratio.
      models: the model's configuration at each ratio.
      budgets: of a row, at each ratio.
    """

    draw: RatioDraw
    models: Mapping[float, ModelConfig]
    budgets: Mapping[float, Budget]

    @staticmethod
    def of(config: Config) -> StepSizes:
        """Returns the sizes of a run's rows, as they are packed."""
        draw = RatioDraw.of(config)
        models = {ratio: at_ratio(config, ratio).model for ratio in draw.ratios}
        budgets = {ratio: row_budget(model, config.data) for ratio, model in models.items()}
        return StepSizes(draw, models, budgets)

    @property
    def several(self) -> bool:
        """Returns whether there is more than one ratio."""
        return len(self.budgets) > 1


def at_ratio(config: Config, ratio: float) -> Config:
    """Returns the configuration of a run's steps at one ratio."""
    return _with_prune(config, dataclasses.replace(config.model.prune, topk=ratio))


def at_same_ratio(config: Config, ratio: float) -> Config:
    """Returns the configuration in which every video loses the same share, not by a threshold."""
    # At once, as a threshold goes with no ratio of 0.
    prune = dataclasses.replace(config.model.prune, topk=ratio, threshold=0.0)
    return _with_prune(config, prune)


def _with_prune(config: Config, prune: PruneConfig) -> Config:
    model = dataclasses.replace(config.model, prune=prune)
    data = dataclasses.replace(config.data, topk=None)
    return dataclasses.replace(config, model=model, data=data)


def require_known_counts(config: Config) -> None:
    """Raises a `ConfigError` for a run whose rows can't be packed, as scores decide their sizes."""
    threshold = config.model.prune.threshold
    if threshold:
        raise ConfigError(
            f"model.prune.threshold is {threshold}, but rows of training are packed for counts "
            "that are known before scores are; set it to 0, and choose a threshold for answers"
        )


def step_budget(config: Config, ratio: float) -> Budget:
    """Returns the budget that the step of a ratio is compiled for.

    That of packed rows; with ratios to train over, `train.mesh.context` divides its tokens, which
    no one `data.row_text_tokens` could bring about for all of them.
    """
    budget = row_budget(at_ratio(config, ratio).model, config.data)
    if not config.model.prune.train_ratios:
        return budget
    return even_tokens(budget, config.train.mesh.context)


def even_tokens(budget: Budget, parts: int) -> Budget:
    """Returns a budget with room for some text more, so that `parts` divides its tokens."""
    return dataclasses.replace(budget, tokens=budget.tokens + -budget.tokens % parts)


def _without_repeats(items: Iterable[float], most: int) -> list[float]:
    """Returns each item once, in order; stops after `most` different ones."""
    found: dict[float, None] = {}
    for item in items:
        found[item] = None
        if len(found) == most:
            break
    return list(found)
