"""Thresholds on scores are kept beside the checkpoint that they were calibrated for."""

from __future__ import annotations

import json

import pytest

from stts_jax.training.checkpointing.checkpoint_errors import CheckpointError
from stts_jax.training.checkpointing.run_folder import CHECKPOINTS, COMPLETE, MODEL
from stts_jax.training.checkpointing.thresholds import (
    RATIOS,
    THRESHOLDS,
    save_thresholds,
    threshold_for,
)


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint without parameters."""
    folder = tmp_path / CHECKPOINTS / "5"
    (folder / MODEL).mkdir(parents=True)
    saved_at(folder, 1)
    return folder


def saved_at(folder, nanoseconds: int) -> None:
    (folder / COMPLETE).write_text(json.dumps({"commit_timestamp_nsecs": nanoseconds}))


def test_a_threshold_between_two_ratios_is_between_theirs(checkpoint):
    save_thresholds(checkpoint, [ratio / 2 for ratio in RATIOS])
    assert threshold_for(checkpoint, 0.625) == pytest.approx(0.3125)


def test_nothing_is_below_the_threshold_of_no_ratio(checkpoint):
    assert threshold_for(checkpoint, 0.0) == 0.0


def test_a_checkpoint_without_thresholds_says_how_to_get_them(checkpoint):
    with pytest.raises(CheckpointError, match="run `stts calibrate --checkpoint"):
        threshold_for(checkpoint, 0.5)


def test_thresholds_are_not_those_of_a_later_checkpoint_at_the_same_path(checkpoint):
    save_thresholds(checkpoint, [0.1] * len(RATIOS))
    saved_at(checkpoint, 2)
    with pytest.raises(CheckpointError, match="has no thresholds"):
        threshold_for(checkpoint, 0.5)


def test_a_run_keeps_the_thresholds_of_each_of_its_checkpoints(checkpoint):
    save_thresholds(checkpoint, [0.1] * len(RATIOS))
    saved_at(checkpoint, 2)
    save_thresholds(checkpoint, [0.2] * len(RATIOS))
    assert threshold_for(checkpoint, 0.5) == pytest.approx(0.2)
    saved_at(checkpoint, 1)
    assert threshold_for(checkpoint, 0.5) == pytest.approx(0.1)


@pytest.mark.parametrize("found", [[0.1], "low", [1.5] * len(RATIOS)])
def test_a_file_without_scores_is_refused(found, checkpoint):
    file = save_thresholds(checkpoint, [0.1] * len(RATIOS))
    file.write_text(json.dumps({"1": found}))
    with pytest.raises(CheckpointError, match=THRESHOLDS):
        threshold_for(checkpoint, 0.5)
