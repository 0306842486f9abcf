"""Shared memory for worker processes: what is said where there is too little of it."""

import errno
import shutil
import types

import pytest

from stts_jax.budget import row_budget
from stts_jax.config import load_config
from stts_jax.data.bad_examples import BadExamples
from stts_jax.data.datasets.base import DatasetError
from stts_jax.data.pipeline import TrainingBatches, training_batches
from stts_jax.data.shared_memory import MIB, SharedMemory

REMEDY = r"--shm-size=\d+g \(in Kubernetes .*memory volume.*or lower data.workers"


@pytest.fixture
def room(monkeypatch):
    """`room(bytes)`: so much is free."""

    def leave(free):
        usage = types.SimpleNamespace(total=free, free=free)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)

    return leave


def need(name, *sets):
    config = load_config(name, list(sets))
    return SharedMemory.of(config.model, config.data)


def test_an_example_takes_what_its_pixels_take():
    assert need("molmo2_4b").example == pytest.approx(64 * 729 * 588, rel=0.02)


def test_what_waits_to_fill_rows_is_counted():
    one, several = need("molmo2_4b", "data.row_examples=1"), need("molmo2_4b")
    assert several.most - one.most == 48 * one.example


def test_docker_s_64_mb_are_too_little_for_the_4b_model(room, tmp_path):
    room(64 * MIB)
    said = rf"/dev/shm\) has 64 MiB free, and data.workers=8 take up to \d+ MiB of it.*{REMEDY}"
    with pytest.raises(DatasetError, match=said):
        need("molmo2_4b").require(tmp_path)


def test_a_run_that_may_come_to_need_more_is_warned(room, tmp_path, caplog):
    enough = need("molmo2_4b")
    room(enough.least)
    enough.require(tmp_path)
    assert "/dev/shm" in caplog.text and "lower data.workers" in caplog.text


@pytest.mark.parametrize("workers", [0, 8])
def test_enough_of_it_or_no_need_for_it_is_not_spoken_of(room, tmp_path, caplog, workers):
    enough = need("molmo2_4b", f"data.workers={workers}")
    room(enough.most if workers else 0)
    enough.require(tmp_path)
    assert not caplog.text


def test_too_little_is_refused_before_anything_is_read(room):
    room(1000)
    with pytest.raises(DatasetError, match="shared memory"):
        training_batches(load_config("tiny", ["data.train=missing.jsonl", "data.workers=2"]))


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("Worker process was terminated unexpectedly with exit code -7."),
    ],
)
def test_a_worker_that_finds_none_left_is_one_sentence_with_the_remedy(error):
    def fail():
        raise error
        yield

    config = load_config("tiny", ["data.workers=2"])
    budget, memory = row_budget(config.model, config.data), need("tiny", "data.workers=2")
    batches = TrainingBatches(fail(), budget, BadExamples(1, 0.1), config.model, None, memory)
    with pytest.raises(DatasetError, match=rf"\(/dev/shm, .* MiB\) is full: .*{REMEDY}"):
        next(batches)
