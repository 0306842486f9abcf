"""Lines on settings of training that differ from those that a resumed run was trained with."""

from __future__ import annotations

from collections.abc import Iterator

from stts_jax.config import TrainConfig
from stts_jax.training.checkpoint import differing_keys
from stts_jax.training.optimizer import GROUPS, learning_rate

# They change neither an update nor what it is computed from.
_FREE = (
    *("log_every", "evaluate_every", "evaluate_examples", "save_every", "keep_checkpoints"),
    *("keep_best", "mesh", "accumulate", "profile", "tensorboard", "wandb"),
)


def schedule_lines(config: TrainConfig, saved: TrainConfig, step: int) -> Iterator[str]:
    """Yields what changes in the updates of a run, a line each; nothing where nothing does.

    Args:
      config: of the run from now on.
      saved: that the checkpoint was trained with.
      step: of the checkpoint; the next update is that of `step + 1`.
    """
    if step >= config.steps:
        yield (
            f"nothing is left to train: the run is at step {step} and train.steps is "
            f"{config.steps}; raise train.steps to go on"
        )
        return
    changed = [
        text
        for text in differing_keys(config, saved, "train")
        if not text.startswith(tuple(f"train.{name}{end}" for name in _FREE for end in "=."))
    ]
    if not changed:
        return
    rates = _changed_rates(config, saved, step + 1)
    if rates:
        yield f"the learning rate at step {step + 1} goes {rates}, because of {', '.join(changed)}"
    else:
        yield f"settings of training change from step {step + 1} on: {', '.join(changed)}"


def _changed_rates(config: TrainConfig, saved: TrainConfig, step: int) -> str:
    """For example `from 7.5e-05 to 8.0e-04 (llm, vit)`; empty where all groups stay as they are."""
    groups_by_change: dict[str, list[str]] = {}
    for group in GROUPS:
        before, after = (
            f"{float(learning_rate(getattr(c, group), c, step)):.2e}" for c in (saved, config)
        )
        if before != after:
            groups_by_change.setdefault(f"from {before} to {after}", []).append(group)
    return ", ".join(f"{change} ({', '.join(g)})" for change, g in groups_by_change.items())
