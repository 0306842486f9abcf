"""Keeps thresholds on scores beside the checkpoint that they were calibrated for.

`OUTPUT/thresholds.json` has, for each checkpoint by the time it was saved, the score below which
1, 2, ... 99 % of the validation videos' tokens are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stts_jax.buckets.whole_files import write_whole
from stts_jax.config import Config, replace
from stts_jax.plain_files import FileError, read_json_object, require_within
from stts_jax.training.checkpointing.checkpoint_errors import CheckpointError, reading, writing
from stts_jax.training.checkpointing.opened import OpenedCheckpoint
from stts_jax.training.checkpointing.run_folder import CHECKPOINTS, identity_of, locate_checkpoint

THRESHOLDS = "thresholds.json"
RATIOS = tuple(k / 100 for k in range(1, 100))


def save_thresholds(checkpoint: Path, thresholds: Sequence[float]) -> Path:
    """Saves the thresholds of a checkpoint at `RATIOS`; returns the file.

    Args:
      checkpoint: folder of one step.
      thresholds: one for each of `RATIOS`.

    Raises:
      CheckpointError: if the file can't be written.
    """
    file = _file_of(checkpoint)
    known = _read(checkpoint) if file.exists() else {}
    known[_key(checkpoint)] = list(thresholds)
    with writing(file):
        write_whole(file, json.dumps(known) + "\n")
    return file


def calibrated_folder(opened: OpenedCheckpoint) -> Path:
    """Returns the folder of a checkpoint that thresholds are kept for.

    Raises:
      CheckpointError: if it is of another form and read where it is.
    """
    if opened.own_config is not None:
        raise CheckpointError(
            f"'{opened.folder}' is read where it is by --no-cache, and thresholds are kept with a "
            "converted copy; leave out --no-cache"
        )
    return opened.folder


def threshold_for(checkpoint: Path, ratio: float) -> float:
    """Returns the threshold that drops a mean share of the tokens, 0 for a share of 0.

    Args:
      checkpoint: folder of one step.
      ratio: mean share to drop, from 0 to 0.99.

    Raises:
      CheckpointError: if the checkpoint was not calibrated, or the file is damaged.
    """
    if not ratio:
        return 0.0
    file = _file_of(checkpoint)
    own = _read(checkpoint).get(_key(checkpoint)) if file.exists() else None
    if own is None:
        raise CheckpointError(
            f"checkpoint '{checkpoint}' has no thresholds yet; run `stts calibrate --checkpoint "
            f"{checkpoint}` once, which scores the validation videos"
        )
    with reading(checkpoint):
        if not _are_thresholds(own):
            raise FileError(f"'{THRESHOLDS}' doesn't hold {len(RATIOS)} scores from 0 to below 1")
    return float(np.interp(ratio, RATIOS, own))


def with_threshold(config: Config, checkpoint: Path) -> Config:
    """Returns a configuration that drops its `topk` in the mean over videos, by a threshold.

    Args:
      config: of the model.
      checkpoint: folder of a run or of one step, which `stts calibrate` knows.

    Raises:
      CheckpointError: if the checkpoint was not calibrated.
      ConfigError: if the method has no scores.
    """
    threshold = threshold_for(locate_checkpoint(checkpoint), config.model.prune.topk)
    return replace(config, {"model.prune.threshold": threshold})


def _are_thresholds(found: Any) -> bool:
    return (
        isinstance(found, list)
        and len(found) == len(RATIOS)
        and all(isinstance(score, float) and 0.0 <= score < 1.0 for score in found)
    )


def _read(checkpoint: Path) -> dict[str, Any]:
    file = _file_of(checkpoint)
    with reading(checkpoint):
        return read_json_object(require_within(file, file.parent))


def _file_of(checkpoint: Path) -> Path:
    folder = checkpoint.parent
    return (folder.parent if folder.name == CHECKPOINTS else folder) / THRESHOLDS


def _key(checkpoint: Path) -> str:
    return str(identity_of(checkpoint)["saved_ns"])
