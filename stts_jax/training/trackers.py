"""Writes metrics to TensorBoard and Weights & Biases, beside `metrics.jsonl`."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from stts_jax.config import Config, ConfigError
from stts_jax.training.checkpointing.checkpoint_errors import writing

WANDB_ID = "wandb_id.txt"


class Tracker(Protocol):
    """Writes scalars by step."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes the values of a step."""

    def close(self) -> None:
        """Flushes and closes."""


def require_trackers(config: Config) -> None:
    """Raises a `ConfigError` if a tracker of the config isn't installed."""
    if config.train.tensorboard:
        _import("tensorboardX", "train.tensorboard is true", "tensorboard")
    if config.train.wandb:
        _import("wandb", f"train.wandb is '{config.train.wandb}'", "wandb")


def make_trackers(config: Config, output: Path, step: int) -> list[Tracker]:
    """Returns the trackers that the config asks for.

    Args:
      config: of the run.
      output: its folder.
      step: that the run resumes from, 0 for a new one.

    Raises:
      ConfigError: if one isn't installed, or can't start.
    """
    require_trackers(config)
    trackers: list[Tracker] = []
    if config.train.tensorboard:
        trackers.append(TensorBoard(output / "tensorboard", step))
    if config.train.wandb:
        trackers.append(WeightsAndBiases(config, output, step))
    return trackers


class TensorBoard:
    """Event files for `tensorboard --logdir FOLDER`."""

    def __init__(self, folder: Path, step: int) -> None:
        module = importlib.import_module("tensorboardX")
        # Later values of an earlier process are removed.
        self._writer = module.SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes the values of a step."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes and closes."""
        self._writer.close()


class WeightsAndBiases:
    """A run at wandb, which is resumed with the training."""

    def __init__(self, config: Config, output: Path, step: int) -> None:
        module = importlib.import_module("wandb")
        known = output / WANDB_ID
        resumed = known.read_text().strip() if step and known.is_file() else None
        try:
            self._run = module.init(
                project=config.train.wandb,
                name=output.name,
                dir=str(output),
                id=resumed,
                resume="allow" if resumed else None,
                config=dataclasses.asdict(config),
            )
        except Exception as error:  # of many kinds: without a login, without a network, ...
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise ConfigError(
                f"train.wandb is '{config.train.wandb}', but wandb cannot start ({reason}); log in "
                "with `wandb login`, set WANDB_MODE=offline, or turn that off"
            ) from error
        with writing(known):
            known.write_text(f"{self._run.id}\n")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes the values of a step."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Flushes and closes."""
        self._run.finish()


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Returns nested scalars by path: `{"a": {"b": 1}}` -> `{"a/b": 1}`."""
    found: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}/")
        else:
            found[prefix + name] = value
    return found


def _import(name: str, asked: str, extra: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"{asked}, but {name} is not installed; install it with "
            f"`pip install 'stts-jax[{extra}]'` or turn that off"
        ) from error
