"""A run starts from a checkpoint, other parameters or nothing, and loses none of them."""

import errno
import os
import shutil

import jax
import numpy as np
import pytest
from training_cases import (
    FakeBatches,
    random_state,
    small_config,
    small_parts,
    train,
)

from stts_jax.output_lock import hold_output
from stts_jax.training import data_parts
from stts_jax.training.checkpointing import restore, resume
from stts_jax.training.checkpointing.checkpoint_errors import CheckpointError
from stts_jax.training.checkpointing.load import save_model
from stts_jax.training.checkpointing.run_folder import checkpoint_steps


def short(output, **options):
    """A run of one step."""
    return train(small_config("train.steps=1", "train.log_every=0"), output, **options)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("run", r"lies in --output .*; choose another --output"),
        ("run/checkpoints/1", r"lies in --output .*; choose another --output"),
        ("nothing", "there is no checkpoint in"),
        ("other", "doesn't fit this setup"),
    ],
)
def test_a_new_run_that_is_refused_deletes_nothing(tmp_path, source, message):
    short(tmp_path / "run")
    other = small_config("model.llm.mlp_width=40")
    save_model(random_state(other).model, other, tmp_path / "other")
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    with pytest.raises(CheckpointError, match=message):
        short(tmp_path / "run", resume=False, init_from=tmp_path / source)
    assert checkpoint_steps(tmp_path / "run") == [1]
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == before


def test_a_file_in_the_place_of_the_checkpoints_is_refused(tmp_path):
    (tmp_path / "checkpoints").touch()
    with pytest.raises(CheckpointError, match=r"/checkpoints' is a file, but checkpoints go into"):
        short(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]


@pytest.mark.parametrize("together", [True, False])
def test_a_run_whose_processes_read_the_same_data_says_so(tmp_path, monkeypatch, capsys, together):
    rows = {0: np.arange(8)} | ({1: np.arange(8)} if together else {})
    monkeypatch.setattr(data_parts, "rows_by_process", lambda *_: rows)
    said = "some processes read and decode the same part of the data, as train.mesh gives them"
    for _ in range(2):  # a new run, and one that goes on
        short(tmp_path)
        assert (said in capsys.readouterr().out) == together


def test_data_of_other_content_start_from_the_beginning(tmp_path, monkeypatch, capsys):
    class Named(FakeBatches):
        content = "a"

        def get_state(self):
            return {**super().get_state(), "sources": {"mine.jsonl": self.content}}

        def set_state(self, state):
            restored.append(state)
            super().set_state(state)

    restored = []
    for content, said, places in (("a", 0, 0), ("a", 0, 1), ("b", 1, 1)):
        Named.content = content
        short(tmp_path, parts=small_parts(open_data=Named))
        told = capsys.readouterr().out
        assert (
            told.count("the data start from the beginning: mine.jsonl has other content than")
            == said
        )
        assert len(restored) == places


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    """The folder of a run with checkpoints of steps 1 and 2."""
    output = tmp_path_factory.mktemp("two_steps")
    train(small_config("train.steps=2", "train.save_every=1"), output)
    return output


@pytest.fixture
def run(two_steps, tmp_path):
    return shutil.copytree(two_steps, tmp_path / "run")


def go_on(output, **options):
    return train(small_config("train.steps=2", "train.log_every=0"), output, **options)


def destroy(output, step):
    (output / "checkpoints" / str(step) / "_CHECKPOINT_METADATA").write_text("{")


@pytest.mark.parametrize(
    "error",
    [
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."),
        MemoryError("no memory"),
        OSError(errno.ESTALE, "Stale file handle"),
        OSError(errno.EIO, "Input/output error"),
        ValueError("RESOURCE_EXHAUSTED: Error opening driver [OS error 24: Too many open files]"),
    ],
)
def test_what_says_nothing_of_the_files_moves_none(run, monkeypatch, error):
    def load(*_):
        raise KeyError("a library's own words") from error

    monkeypatch.setattr(restore, "load_parameters", load)
    with pytest.raises(CheckpointError, match=r"checkpoint '.*/2' cannot be read") as raised:
        go_on(run)
    assert str(error) in str(raised.value) and "\n" not in str(raised.value)
    assert checkpoint_steps(run) == [1, 2] and not (run / "damaged").exists()


def test_metadata_that_orbax_cannot_read_is_no_damage_by_itself(run, monkeypatch):
    read = restore.ocp.checkpointables_metadata

    def without_the_model(folder):
        found = read(folder)
        found.metadata["model"] = None  # as after a file could not be opened
        return found

    monkeypatch.setattr(restore.ocp, "checkpointables_metadata", without_the_model)
    assert go_on(run).step == 2
    assert checkpoint_steps(run) == [1, 2]


def test_a_run_whose_checkpoints_are_all_damaged_starts_anew_only_when_told_to(run):
    destroy(run, 1), destroy(run, 2)
    metrics = (run / "metrics.jsonl").read_text()
    for _ in range(2):
        with pytest.raises(
            CheckpointError, match=r"every checkpoint in .*start a new run with --no-re"
        ):
            go_on(run)
    assert (run / "metrics.jsonl").read_text() == metrics
    assert go_on(run, resume=False).step == 2
    assert sorted(path.name for path in (run / "damaged").iterdir()) == ["1", "2"]
    destroy(run, 2)
    with pytest.raises(CheckpointError, match="every checkpoint in"):
        go_on(run)
    assert sorted(path.name for path in (run / "damaged").iterdir()) == ["1", "2", "2-2"]


def test_a_run_does_not_start_anew_over_checkpoints_that_stay(run, monkeypatch):
    """One that cannot be deleted would be newer than those of the new run, and win later."""
    monkeypatch.setattr(resume, "delete_folder", lambda _: None)
    with pytest.raises(CheckpointError, match=r"checkpoints in .* cannot be deleted, .* yourself"):
        go_on(run, resume=False)
    assert checkpoint_steps(run) == [1, 2]


@pytest.mark.parametrize("lost", ["model", "_CHECKPOINT_METADATA"])
def test_a_checkpoint_that_lost_files_is_reported(run, capsys, lost):
    path = run / "checkpoints" / "2" / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert go_on(run).step == 2
    told = capsys.readouterr().out
    assert "/checkpoints/2' is damaged (files are missing); it is moved to" in told
    assert f"resuming '{run}' at step 1" in told
    assert not (run / "damaged" / "2" / lost).exists() and (run / "damaged" / "2").is_dir()


def test_a_save_and_a_deletion_that_were_killed_are_no_damage(run, capsys):
    shutil.copytree(run / "checkpoints" / "2", run / "checkpoints" / "3.orbax-checkpoint-tmp-7")
    shutil.rmtree(run / "checkpoints" / "1" / "model")
    assert go_on(run).step == 2
    assert "damaged" not in capsys.readouterr().out and not (run / "damaged").exists()


def test_going_on_with_more_steps_says_where_the_learning_rate_goes_once(tmp_path, capsys):
    short(tmp_path)
    longer = ("train.steps=2", "train.log_every=0", "train.llm.learning_rate=1e-3")
    train(small_config(*longer), tmp_path)
    said = [line for line in capsys.readouterr().out.splitlines() if "learning rate" in line]
    assert len(said) == 1 and "because of train.steps=2 (saved: 1)" in said[0]
    train(small_config(*longer), tmp_path)
    assert "nothing is left to train" in capsys.readouterr().out


@pytest.mark.parametrize("resume", [True, False])
def test_a_run_in_a_folder_that_another_one_holds_is_refused_and_changes_nothing(tmp_path, resume):
    (tmp_path / "checkpoints" / "7").mkdir(parents=True)
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    with hold_output(tmp_path, "training"):
        names = sorted(tmp_path.rglob("*"))
        with pytest.raises(CheckpointError, match=rf"in use by process {os.getpid()} on host"):
            short(tmp_path, resume=resume)
        assert sorted(tmp_path.rglob("*")) == names


def test_a_run_whose_lock_was_taken_over_saves_nothing_more(tmp_path):
    def take_over(step, _):
        (tmp_path / "lock").write_text("{}")

    with pytest.raises(CheckpointError, match="another run took over"):
        train(small_config("train.steps=2", "train.log_every=0"), tmp_path, on_step=take_over)
    assert not checkpoint_steps(tmp_path)
