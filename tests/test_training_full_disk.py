"""A disk that fills up during a run gives one sentence, which hides no other error."""

import time
from contextlib import ExitStack, suppress

import numpy as np
import pytest
from training_cases import (
    fresh_state,
    full_disk,
    small_config,
    small_parts,
    train,
    train_step,
)

from stts_jax.training.checkpointing import save
from stts_jax.training.checkpointing.checkpoint_errors import CheckpointError
from stts_jax.training.checkpointing.run_folder import save_config
from stts_jax.training.checkpointing.save import Checkpoints
from stts_jax.training.log import MetricsLog
from stts_jax.training.nan_check import TrainingError
from stts_jax.training.plots import plot_training

CONFIG = ("train.steps=4", "train.save_every=0", "train.log_every=0")


@pytest.fixture(autouse=True)
def no_file_takes_what_is_printed(capsys):
    pass


def test_a_metrics_line_that_finds_no_room_ends_the_run_in_one_sentence(tmp_path):
    disk = ExitStack()

    def fill(step, metrics):
        if step == 2:
            disk.enter_context(full_disk())

    with disk, pytest.raises(CheckpointError) as error:
        train(small_config(*CONFIG), tmp_path, on_step=fill)
    assert f"'{tmp_path}/metrics.jsonl' cannot be written: File too large; make room" in str(
        error.value
    )


def test_closing_the_metrics_hides_no_other_error(tmp_path):
    with full_disk(), pytest.raises(KeyError), MetricsLog(tmp_path, 0) as log:
        with suppress(CheckpointError):
            log.write({"step": 1})
        raise KeyError


def test_the_other_files_of_a_run_say_so_too(tmp_path):
    with MetricsLog(tmp_path, 0) as log:
        log.write({"step": 1, "loss": 1.0, "accuracy": 0.5, "auxiliary_loss": 0.1})
    with full_disk():
        with pytest.raises(CheckpointError, match=r"config\.json' cannot be written: File too"):
            save_config(small_config(), tmp_path)
        with pytest.raises(CheckpointError, match=r"loss\.png' cannot be written: File too"):
            plot_training(tmp_path)
        with (
            pytest.raises(CheckpointError, match=r"checkpoints' cannot be written: .*too"),
            Checkpoints(tmp_path, 1, small_config().data) as checkpoints,
        ):
            checkpoints.mark_best(1, 0.5)
    assert not (tmp_path / "config.json").exists()


def test_a_loss_that_is_not_finite_is_told_of_though_nothing_can_be_kept(tmp_path):
    disk = ExitStack()

    def broken(*_):
        def step(state, batch, key):
            state, metrics = train_step()(state, batch, key)
            disk.enter_context(full_disk())
            return state, metrics | {"loss": np.float32(np.nan)}

        return step

    message = r"stopped at step 1, .*: loss is nan; nothing of it is kept .*File too large"
    parts = small_parts(make_step=broken)
    with disk, pytest.raises(TrainingError, match=message):
        train(small_config(*CONFIG), tmp_path, parts=parts)


def test_a_checkpoint_that_cannot_be_written_hides_no_other_error(tmp_path, capsys):
    state = fresh_state()
    with (
        full_disk(),
        pytest.raises(KeyError),
        Checkpoints(tmp_path, 1, small_config().data) as checkpoints,
    ):
        checkpoints.save(state, 1, {}, {0: None})
        raise KeyError
    assert "cannot be written" in capsys.readouterr().out


def test_threads_of_a_save_that_failed_are_not_waited_for(tmp_path, monkeypatch):
    class Stuck:
        def wait(self):
            raise OSError("Directory not empty")

        def close(self):
            time.sleep(600)

    monkeypatch.setattr(save, "_CLOSE_SECONDS", 0.05)
    started = time.monotonic()
    with (
        pytest.raises(CheckpointError, match="cannot be written: Directory not empty"),
        Checkpoints(tmp_path, 1, small_config().data) as checkpoints,
    ):
        checkpoints._checkpointer.close()
        checkpoints._checkpointer = Stuck()
        checkpoints.wait()
    assert time.monotonic() - started < 60
