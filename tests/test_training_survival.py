"""A run survives being killed at any moment, and stops when any of its processes is asked to."""

from __future__ import annotations

import random
import signal
import time

import pytest
from process_runs import Launcher, is_running, is_saving, losses, until

from stts_jax.data.synthetic import ensure_synthetic
from stts_jax.training.checkpointing.run_folder import checkpoint_steps
from stts_jax.training.stop import StopRequest

STEPS, SAVE_EVERY = 24, 4
RUN = (f"train.steps={STEPS}", f"train.save_every={SAVE_EVERY}", "train.log_every=0")
GRACE = 15.0  # seconds; a save takes a fraction of one, the machine may be busy


@pytest.fixture(scope="module")
def launcher():
    launcher = Launcher()
    yield launcher
    launcher.close()


@pytest.fixture(scope="module")
def uninterrupted(launcher, tmp_path_factory):
    """Losses by step of a run that nothing happened to."""
    output = tmp_path_factory.mktemp("whole")
    launcher.start(output, *RUN).finish()
    found = losses(output)
    assert len(found) == STEPS
    return found


def kill_at_random(launcher, output, kills, rng, *overrides, **options):
    """Restart a run until it has been killed so often, every other time in a save; then let it end.

    Returns the kills that hit a save.
    """
    in_a_save = 0
    for number in range(kills):
        before = max(checkpoint_steps(output), default=0)
        run = launcher.start(output, *overrides, **options)
        goal = rng.randrange(1, 7)
        until(lambda: len(losses(output)) >= before + goal, f"step {before + goal}")  # noqa: B023
        if number % 2 == 0:
            until(lambda: is_saving(output), "a save")
        run.kill()
        in_a_save += is_saving(output)
        left, reached = max(checkpoint_steps(output), default=0), max(losses(output))
        # A save counts when it is written, and the next one waits for it.
        assert left >= before and reached - left <= 2 * SAVE_EVERY, (before, left, reached)
    launcher.start(output, *overrides, **options).finish()
    return in_a_save


def test_a_killed_run_goes_on_bit_for_bit(launcher, uninterrupted, tmp_path):
    hit = kill_at_random(launcher, tmp_path, 3, random.Random(0), *RUN)
    assert losses(tmp_path) == uninterrupted
    assert hit >= 1
    assert not is_saving(tmp_path), "what a kill leaves is cleaned up"


def test_a_killed_run_goes_on_with_the_examples_that_it_would_have_read(launcher, tmp_path):
    """They are read from files by workers, and packed into rows that wait for each other."""
    folder = ensure_synthetic(tmp_path / "set", videos=6, seed=0, progress=False)
    run = (
        *("train.steps=12", "train.save_every=4", "train.log_every=0"),
        *(f"data.train={folder}/train.jsonl", "data.workers=2", "data.batch_rows=2"),
        *("data.max_frames=3", "data.row_frames=8", "data.row_examples=4"),
        *("data.row_text_tokens=700", "model.llm.vocab_size=512"),
    )
    whole, output = launcher.start(tmp_path / "whole", *run, data="files"), tmp_path / "killed"
    killed = launcher.start(output, *run, data="files")
    until(lambda: checkpoint_steps(output), "the first checkpoint")
    workers = killed.workers()
    killed.kill()
    assert max(losses(output)) < 12
    assert len(workers) >= 2
    until(lambda: not any(map(is_running, workers)), "the workers to end")
    launcher.start(output, *run, data="files").finish()
    whole.finish()
    assert losses(output) == losses(tmp_path / "whole")
    assert len(losses(output)) == 12


@pytest.mark.slow
def test_twenty_kills_of_the_real_model_change_nothing(launcher, tmp_path):
    run = ("train.steps=120", "train.save_every=4", "train.log_every=0")
    launcher.start(tmp_path / "whole", *run, step="real").finish()
    hit = kill_at_random(launcher, tmp_path / "killed", 20, random.Random(1), *run, step="real")
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    assert hit >= 5


@pytest.mark.parametrize(
    ("hang", "overrides", "saved"),
    [
        ("data", (), 2),
        ("evaluate", ("train.evaluate_every=2", "train.save_every=0"), 2),
        ("compile", (), None),
    ],
)
def test_sigterm_is_heard_from_anywhere(launcher, uninterrupted, tmp_path, hang, overrides, saved):
    run = launcher.start(tmp_path, *RUN, *overrides, hang=hang)
    until((tmp_path / "hanging").exists, f"the run to hang in {hang}")
    sent = time.monotonic()
    run.signal(signal.SIGTERM)
    summary = run.finish()
    assert time.monotonic() - sent < GRACE
    assert summary["stopped"] and summary["left_running"]
    what = "the checkpoint is saved" if saved else "there is nothing to save yet"
    assert f"stopped at step {summary['step']} by SIGTERM; {what}" in run.log()
    assert checkpoint_steps(tmp_path) == ([saved] if saved else [])
    if hang == "data":
        launcher.start(tmp_path, *RUN).finish()
        assert losses(tmp_path) == uninterrupted


def test_sigint_saves_too(launcher, tmp_path):
    run = launcher.start(tmp_path, *RUN, "train.save_every=0", hang="data")
    until((tmp_path / "hanging").exists, "the run to hang")
    run.signal(signal.SIGINT)
    assert run.finish()["stopped"]
    assert "stopped at step 2 by SIGINT" in run.log()
    assert checkpoint_steps(tmp_path) == [2]


def test_a_signal_that_comes_while_the_others_are_asked_is_not_forgotten():
    sent = []

    class Others:
        def received(self, key):
            signal.raise_signal(signal.SIGTERM)

        def send(self, key, value):
            sent.append(value)

    with StopRequest(Others()) as stop:
        stop.exchange()
        assert stop.exchange() and stop.reason == "SIGTERM"
    assert sent == ["SIGTERM"]


@pytest.mark.parametrize("index", [0, 1])
def test_a_signal_to_one_process_stops_both_at_the_same_step(launcher, tmp_path, index):
    # One waits for its data; the other has its own, and waits for the first.
    runs = launcher.start_several(2, tmp_path, *RUN, hang="data", first_hangs=True)
    until((tmp_path / "hanging").exists, "the first process to hang")
    sent = time.monotonic()
    runs[index].signal(signal.SIGTERM)
    summaries = [run.finish() for run in runs]
    assert time.monotonic() - sent < GRACE
    assert [(s["step"], s["stopped"]) for s in summaries] == [(2, True)] * 2
    assert checkpoint_steps(tmp_path) == [2]
