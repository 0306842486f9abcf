"""The arguments of a question, as changes of a configuration."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from stts_jax.api.errors import UsageError
from stts_jax.config import Config, override, replace
from stts_jax.quoting import shorten
from stts_jax.train_ratios import at_same_ratio
from stts_jax.training.checkpointing.thresholds import with_threshold

# A share of a video's tokens to drop, or as many as score below the calibrated threshold.
Prune = float | Literal["auto"] | None
Settings = Mapping[str, Any] | Sequence[str]


def with_settings(config: Config, settings: Settings) -> Config:
    """Returns a configuration with settings by name, or as the commands' `--set` writes them."""
    if isinstance(settings, str):
        return override(config, [settings])
    if isinstance(settings, Mapping):
        return replace(config, settings)
    if not isinstance(settings, Sequence) or not all(isinstance(x, str) for x in settings):
        raise UsageError(
            f"settings is {shorten(settings)}; give changes by name, such as "
            "{'model.prune.topk': 0.7}"
        )
    return override(config, settings)


def asked_with(
    config: Config,
    prune: Prune = None,
    frames: int | None = None,
    fps: float | None = None,
    max_new_tokens: int | None = None,
    checkpoint: Path | None = None,
) -> Config:
    """Returns the configuration that a question is answered in; None leaves a setting as it is.

    Args:
      config: of the run.
      prune, frames, fps, max_new_tokens: see `Model.ask`.
      checkpoint: folder of the step that was loaded, which may have thresholds.

    Raises:
      UsageError: if an argument can't be used.
      ConfigError: if a setting can't have that value.
    """
    config = config if prune is None else pruned_at(config, prune, checkpoint)
    data, answers = config.data, config.eval
    if frames is not None:
        require_count("frames", frames)
        rows = max(data.row_frames, frames)
        data = dataclasses.replace(data, max_frames=int(frames), row_frames=int(rows))
    if fps is not None:
        if not is_number(fps) or not 0 < fps < math.inf:
            raise UsageError(f"fps is {shorten(fps)}; give frames per second, above 0")
        data = dataclasses.replace(data, fps=float(fps))
    if max_new_tokens is not None:
        require_count("max_new_tokens", max_new_tokens)
        answers = dataclasses.replace(answers, max_new_tokens=int(max_new_tokens))
    return dataclasses.replace(config, data=data, eval=answers)


def pruned_at(config: Config, prune: Prune, checkpoint: Path | None = None) -> Config:
    """Returns the configuration that drops a share of a video's tokens, or by a threshold."""
    own = config.model.prune
    if isinstance(prune, str) and prune == "auto":
        return _by_threshold(config, checkpoint)
    if not is_number(prune) or math.isnan(prune):  # type: ignore[arg-type]
        raise UsageError(
            f"prune is {shorten(prune)}; give the share of a video's tokens to drop, from 0 to "
            "below 1, or 'auto'"
        )
    ratio = float(prune)  # type: ignore[arg-type]
    if ratio == 1:
        raise UsageError(
            f"prune is {prune}, which leaves nothing of a video; give a share below 1, such as 0.5"
        )
    if not 0 <= ratio < 1:
        meant = f"; did you mean {ratio / 100:g}?" if 1 < ratio < 100 else ", such as 0.5"
        raise UsageError(f"prune is {prune}, but it is a share from 0 to below 1{meant}")
    if ratio and own.method == "none":
        raise UsageError(
            f"prune is {prune}, but this model drops nothing; load it with a method without "
            "parameters: settings={'model.prune.method': 'tome'} (or evs, heuristic, random)"
        )
    return at_same_ratio(config, ratio)


def _by_threshold(config: Config, checkpoint: Path | None) -> Config:
    """Returns the configuration that drops what scores below the calibrated threshold."""
    own = config.model.prune
    if own.threshold:
        return config
    if not own.topk:
        raise UsageError(
            "prune is 'auto', and this model drops nothing in the mean; load it with the share "
            "that it shall drop of all videos, such as settings={'model.prune.topk': 0.7}"
        )
    if checkpoint is None:
        raise UsageError(
            "prune is 'auto', and this model has no calibrated threshold; load it with one, such "
            "as settings={'model.prune.threshold': 0.4}"
        )
    return with_threshold(config, checkpoint)


def is_number(value: Any) -> bool:
    """Returns whether it is a number; True and False are none."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def require_count(name: str, value: Any) -> None:
    """Refuses what is no whole number from 1."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < 1:
        raise UsageError(f"{name} is {shorten(value)}; give a whole number from 1")
