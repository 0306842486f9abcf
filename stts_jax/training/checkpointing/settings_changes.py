"""Compares the settings of a resumed run with those that it was trained with before.

Settings of the model and the optimizer's state must be equal; a change in the updates is printed;
after a change in the data, the data start from the beginning.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stts_jax.config import Config, DataConfig, TrainConfig, replace
from stts_jax.training.checkpointing.checkpoint_errors import CheckpointError
from stts_jax.training.checkpointing.run_folder import config_of
from stts_jax.training.checkpointing.save import Progress
from stts_jax.training.optimizer import GROUPS, learning_rate

# Settings that may differ from those of the run that is resumed.
_FREE_MODEL_KEYS = ("model.compute_dtype", "model.remat")
_FREE_DATA_KEYS = (
    *("data.validation", "data.test"),
    *("data.cache_frames", "data.max_bad_share", "data.workers"),
)
# Settings that decide which arrays the optimizer has.
_FIXED_TRAIN_KEYS = (
    *("train.optimizer", "train.freeze_base_embedding", "train.freeze", "train.frozen_weights"),
    *("train.lora.rank", "train.lora.alpha", "train.lora.targets"),
)
# Settings that change neither an update nor what it is computed from.
_FREE_TRAIN_KEYS = (
    *("log_every", "evaluate_every", "evaluate_examples", "save_every", "keep_checkpoints"),
    *("keep_best", "mesh", "accumulate", "profile", "tensorboard", "wandb"),
)


def require_same_run(config: Config, output: Path) -> Config:
    """Returns the config of the run in `output`.

    Raises:
      CheckpointError: if its model or the arrays of its optimizer are not those of `config`.
    """
    saved = config_of(output)
    other = _differing(config.model, saved.model, "model", _FREE_MODEL_KEYS)
    if other:
        raise CheckpointError(
            f"'{output}' holds a run of another model, with {', '.join(other)}; set them alike, "
            "choose another --output, or replace that run with --no-resume"
        )
    other = differing_keys(config.train, saved.train, "train")
    other = [text for text in other if text.startswith(_FIXED_TRAIN_KEYS)]
    if other:
        raise CheckpointError(
            f"'{output}' holds a run with another optimizer state, of {', '.join(other)}; set them "
            "alike, or start a new run from its parameters with --init-from and another --output"
        )
    return saved


def trained_with(saved: Config, progress: Progress) -> Config:
    """Returns the config that a checkpoint was trained with.

    Args:
      saved: `config.json` of the run, which may be newer than the checkpoint.
      progress: of the checkpoint; an old one has no settings, and `saved` is taken.
    """
    settings = {"data": progress.data_settings, "train": progress.train_settings}
    return replace(saved, {name: own for name, own in settings.items() if own is not None})


def schedule_lines(config: TrainConfig, saved: TrainConfig, step: int) -> Iterator[str]:
    """Yields a line on what changes in the updates of a run; nothing if nothing does.

    Args:
      config: from now on.
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
        if not text.startswith(
            tuple(f"train.{key}{end}" for key in _FREE_TRAIN_KEYS for end in "=.")
        )
    ]
    if not changed:
        return
    rates = _changed_rates(config, saved, step + 1)
    if rates:
        yield f"the learning rate at step {step + 1} goes {rates}, because of {', '.join(changed)}"
    else:
        yield f"settings of training change from step {step + 1} on: {', '.join(changed)}"


def data_changes(config: DataConfig, saved: DataConfig) -> list[str]:
    """Returns `KEY=new (saved: old)` for each setting that changes the order or content of data."""
    return _differing(config, saved, "data", _FREE_DATA_KEYS)


def _changed_rates(config: TrainConfig, saved: TrainConfig, step: int) -> str:
    """Returns for example `from 7.5e-05 to 8.0e-04 (llm, vit)`; empty if no rate changes."""
    groups_by_change: dict[str, list[str]] = {}
    for group in GROUPS:
        before, after = (
            f"{float(learning_rate(getattr(c, group), c, step)):.2e}" for c in (saved, config)
        )
        if before != after:
            groups_by_change.setdefault(f"from {before} to {after}", []).append(group)
    return ", ".join(f"{change} ({', '.join(g)})" for change, g in groups_by_change.items())


def _differing(ours: Any, theirs: Any, path: str, free: tuple[str, ...]) -> list[str]:
    found = differing_keys(ours, theirs, path)
    return [text for text in found if not text.startswith(tuple(f"{key}=" for key in free))]


def differing_keys(ours: Any, theirs: Any, path: str) -> list[str]:
    """Returns `KEY=ours (saved: theirs)` for each setting in which two configs differ."""
    if dataclasses.is_dataclass(ours) and dataclasses.is_dataclass(theirs):
        pairs = (
            (getattr(ours, f.name), getattr(theirs, f.name), f"{path}.{f.name}")
            for f in dataclasses.fields(ours)
        )
        return [key for pair in pairs for key in differing_keys(*pair)]
    return [] if ours == theirs else [f"{path}={ours} (saved: {theirs})"]
