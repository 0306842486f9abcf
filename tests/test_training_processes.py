"""Several processes on this machine train as one, and their run goes on with another number."""

from __future__ import annotations

from functools import cache

import pytest
from process_runs import Launcher, losses

from stts_jax.config import ConfigError
from stts_jax.training import distributed
from stts_jax.training.checkpointing.run_folder import checkpoint_steps
from stts_jax.training.distributed import join_processes

# Compiling the step in each process is what these tests cost, so it has few blocks.
MODEL = ("model.vit.layers=3", "model.vit.feature_layers=[-1]")
RUN = ("train.steps=6", "train.save_every=2", "train.log_every=1", *MODEL)


@pytest.fixture(scope="module")
def launcher():
    launcher = Launcher()
    yield launcher
    launcher.close()


@pytest.fixture(scope="module")
def alone(launcher, tmp_path_factory):
    """Losses in one process on one device, by step."""

    @cache
    def losses_of(step):
        output = tmp_path_factory.mktemp(step)
        launcher.start(output, *RUN, "train.save_every=0", step=step).finish()
        return losses(output)

    return losses_of


def assert_close(found, wanted, report_error):
    assert found.keys() == wanted.keys()
    worst = max(abs(found[step] - wanted[step]) for step in wanted)
    report_error("losses", worst, 1e-4)
    assert worst < 1e-4, (found, wanted)


def test_two_processes_agree_with_one_and_one_goes_on(launcher, alone, tmp_path, report_error):
    runs = launcher.start_several(2, tmp_path, *RUN, "train.keep_checkpoints=9")
    summaries = [run.finish() for run in runs]
    assert [s["step"] for s in summaries] == [6, 6]
    assert checkpoint_steps(tmp_path) == [2, 4, 6]
    assert_close(losses(tmp_path), alone("toy"), report_error)
    assert "step 6/6 (100.0 %)" in runs[0].log()
    assert "step" not in runs[1].log().splitlines()[0], "only the first process talks"

    for step in (4, 6):
        (tmp_path / "checkpoints" / str(step)).rename(tmp_path / f"not-{step}")
    one = launcher.start(tmp_path, *RUN)
    assert one.finish()["step"] == 6
    assert "resuming" in one.log() and "at step 2" in one.log()
    assert (
        "the data go on exactly where they stood: they were cut into 2 parts, and there are 1 "
        "processes now, so each process reads several"
    ) in one.log()
    assert_close(losses(tmp_path), alone("toy"), report_error)


def test_parameters_that_lie_across_processes_are_trained_as_in_one(
    launcher, alone, tmp_path, report_error
):
    """The real model's, and they are saved by both: one process reads the last but one back."""
    runs = launcher.start_several(2, tmp_path, *RUN, "train.mesh.fsdp=2", step="real")
    assert [run.finish()["step"] for run in runs] == [6, 6]
    assert_close(losses(tmp_path), alone("real"), report_error)
    (tmp_path / "checkpoints" / "6").rename(tmp_path / "not-6")
    assert launcher.start(tmp_path, *RUN, step="real").finish()["step"] == 6
    assert_close(losses(tmp_path), alone("real"), report_error)


def test_one_process_goes_on_as_two(launcher, alone, tmp_path, report_error):
    output = tmp_path / "grown"
    launcher.start(output, *RUN, "train.steps=4").finish()
    runs = launcher.start_several(2, output, *RUN)
    assert [run.finish()["step"] for run in runs] == [6, 6]
    assert "some processes read the same part and use a share of it" in runs[0].log()
    assert_close(losses(output), alone("toy"), report_error)


def test_processes_with_folders_of_their_own_are_refused_at_the_start(launcher, tmp_path):
    outputs = [tmp_path / "first", tmp_path / "second"]
    runs = launcher.start_several(2, outputs, *RUN)
    assert [run.wait() for run in runs] == [1, 1]
    for run in runs:
        assert run.log().splitlines()[-1] == (
            f"CheckpointError: --output '{run.output}' is not the same folder for all processes: "
            "number 1 does not see what number 0 writes there; choose one that all hosts share"
        )
        assert [path.name for path in run.output.iterdir()] == [f"log-{run.index}.txt"]


def test_a_coordinator_alone_is_refused_where_nothing_else_tells_who_is_there(monkeypatch):
    def initialize():
        raise ValueError("Number of processes must be defined.")

    monkeypatch.setattr(distributed.xla_bridge, "backends_are_initialized", lambda: False)
    monkeypatch.setattr(distributed.jax.distributed, "initialize", initialize)
    with pytest.raises(ConfigError, match="JAX_NUM_PROCESSES is not set, but others of JAX_COORD"):
        join_processes({"JAX_COORDINATOR_ADDRESS": "localhost:9"})


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"JAX_NUM_PROCESSES": "2"}, "JAX_COORDINATOR_ADDRESS is not set"),
        (
            {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"},
            "JAX_PROCESS_ID is '2'; number the processes from 0",
        ),
    ],
)
def test_half_told_processes_are_refused(environment, message):
    with pytest.raises(ConfigError, match=message):
        join_processes(environment)
