"""Chooses folders of results: each setup (frames, ratio, packing, settings) has its own."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stts_jax.config import Config
from stts_jax.model.video_language_model import Weights
from stts_jax.parallel.processes import notice

USUAL_PACKING = "stream"


def setup_name(
    ratio: str, frames_scale: float, config: Config, weights: Weights = "compute"
) -> str:
    """Returns the folder name of a setup's results: `k50`, `k50-2x`, `k50-2x-first_fit-int8`.

    Args:
      ratio: of tokens that are dropped, as "50 %".
      frames_scale: times `data.max_frames` frames are taken.
      config: of the setup.
      weights: that answer.
    """
    parts = [f"k{ratio.removesuffix(' %')}"]
    if frames_scale != 1:
        parts.append(f"{frames_scale:g}x")
    if config.model.prune.layout != USUAL_PACKING:
        parts.append(config.model.prune.layout)
    if config.model.prune.threshold:
        parts.append("auto")
    if weights != "compute":
        parts.append(weights)
    return "-".join(parts)


def free_folder(folder: Path, settings: Mapping[str, Any], config: Config) -> Path:
    """Returns `folder`, or with a number after it where it has results of other settings.

    Args:
      folder: for the results of a split.
      settings: they are saved with.
      config: they are saved with.
    """
    wanted = json.loads(json.dumps([settings, dataclasses.asdict(config)]))
    numbered = (folder.with_name(f"{folder.name}-{number}") for number in itertools.count(2))
    for chosen in itertools.chain([folder], numbered):
        if not (chosen / "metrics.json").exists() or _saved(chosen) == wanted:
            break
    if chosen != folder:
        notice(f"'{folder}' has results of other settings, so these go to '{chosen}'")
    return chosen


def _saved(folder: Path) -> list[Any] | None:
    """Settings and configuration of saved results; None if they cannot be read."""
    try:
        metrics = json.loads((folder / "metrics.json").read_text())
        return [metrics["settings"], json.loads((folder / "config.json").read_text())]
    except (OSError, ValueError, KeyError, TypeError):
        return None
