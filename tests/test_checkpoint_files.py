"""The files of our own checkpoints: what was not finished, or is no file of theirs, is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from convert.sources import Options, open_source
from convert.tensor_reader import ConvertError
from stts_jax.config import Config
from stts_jax.training.checkpointing.checkpoint_errors import CheckpointError
from stts_jax.training.checkpointing.load import initialize_from, load_model, load_to_answer
from stts_jax.training.checkpointing.run_folder import (
    COMPLETE,
    config_of,
    find_checkpoint,
    identity_of,
)
from stts_jax.training.checkpointing.stored_arrays import open_arrays


def step_in(tmp_path: Path) -> Path:
    """A run's checkpoint as far as is looked at before its arrays are."""
    step = tmp_path / "run" / "checkpoints" / "7"
    (step / "model").mkdir(parents=True)
    (step / "model" / "_METADATA").write_text("{}")
    (step / COMPLETE).write_text(json.dumps({"commit_timestamp_nsecs": 5}))
    Config().save(tmp_path / "run")
    return step


LOADERS = {
    "find_checkpoint": find_checkpoint,
    "identity_of": identity_of,
    "load_model": load_model,
    "load_to_answer": load_to_answer,
    "initialize_from": lambda folder: initialize_from(None, folder),
    "convert": lambda folder: open_source(folder, Options()),
}


@pytest.mark.parametrize("content", [b"", b"\0" * 200, b"{", b"[]", b"{}", b"[" * 100_000])
def test_a_checkpoint_whose_save_was_not_finished_is_refused(tmp_path: Path, content) -> None:
    step = step_in(tmp_path)
    assert find_checkpoint(tmp_path / "run") == step.resolve()
    (step / COMPLETE).write_bytes(content)
    with pytest.raises(CheckpointError, match="is damaged or incomplete"):
        find_checkpoint(tmp_path / "run")


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("part", ["run", "run/checkpoints/7"])
def test_everything_that_loads_refuses_it(tmp_path: Path, loader: str, part: str) -> None:
    (step_in(tmp_path) / COMPLETE).write_bytes(b"")
    with pytest.raises((CheckpointError, ConvertError), match="is damaged or incomplete"):
        LOADERS[loader](tmp_path / part)


def pipe(path: Path, outside: Path) -> None:
    os.mkfifo(path)


def device(path: Path, outside: Path) -> None:
    path.symlink_to("/dev/zero")


def link(path: Path, outside: Path) -> None:
    outside.write_text("secret")
    path.symlink_to(outside)


def loop(path: Path, outside: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize("put", [pipe, device, link, loop])
@pytest.mark.parametrize("file", [COMPLETE, "model/_METADATA", "array_metadatas/process_0"])
def test_what_is_no_file_of_the_checkpoint_is_refused(tmp_path: Path, put, file: str) -> None:
    step = step_in(tmp_path)
    (step / file).unlink(missing_ok=True)
    (step / file).parent.mkdir(exist_ok=True)
    put(step / file, tmp_path / "outside")
    with pytest.raises(CheckpointError) as caught:
        find_checkpoint(tmp_path / "run")
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)


def test_links_within_a_checkpoint_and_to_the_blobs_of_a_cache_are_followed(tmp_path) -> None:
    step = step_in(tmp_path / "models--a--b" / "snapshots" / "rev")
    blobs = tmp_path / "models--a--b" / "blobs"
    blobs.mkdir()
    (step / COMPLETE).rename(blobs / "hash")
    (step / COMPLETE).symlink_to(blobs / "hash")
    (step / "same").symlink_to("model/_METADATA")
    assert find_checkpoint(step) == step.resolve()


def test_checkpoints_on_another_disk_behind_a_link_are_found(tmp_path: Path) -> None:
    step = step_in(tmp_path)
    (tmp_path / "run" / "checkpoints").rename(tmp_path / "disk")
    (tmp_path / "run" / "checkpoints").symlink_to(tmp_path / "disk")
    assert find_checkpoint(tmp_path / "run").name == step.name


def test_a_config_behind_a_link_that_leads_out_is_refused(tmp_path: Path) -> None:
    step_in(tmp_path)
    (tmp_path / "run" / "config.json").rename(tmp_path / "outside.json")
    (tmp_path / "run" / "config.json").symlink_to(tmp_path / "outside.json")
    with pytest.raises(CheckpointError, match="leads out"):
        config_of(tmp_path / "run")


def test_a_resumed_run_may_still_ask_for_the_config_of_what_is_damaged(tmp_path: Path) -> None:
    (step_in(tmp_path) / COMPLETE).write_bytes(b"")
    assert config_of(tmp_path / "run") == Config()


@pytest.mark.parametrize("content", ["[" * 100_000, '{"name": "a", "name": "b"}', "[]"])
def test_an_odd_config_of_a_run_is_one_sentence(tmp_path: Path, content: str) -> None:
    step_in(tmp_path)
    (tmp_path / "run" / "config.json").write_text(content)
    with pytest.raises(CheckpointError) as caught:
        config_of(tmp_path / "run")
    assert "config.json" in str(caught.value) and len(str(caught.value)) < 700


@pytest.mark.parametrize("name", ["../../outside", "", "..", 5, None])
def test_arrays_that_lie_outside_are_not_opened(tmp_path: Path, name) -> None:
    entry = {"key_metadata": [{"key": name}]}
    (tmp_path / "_METADATA").write_text(json.dumps({"tree_metadata": {"a": entry}}))
    with pytest.raises(ValueError, match="is no name of an array"):
        open_arrays(tmp_path)


def test_a_block_larger_than_its_array_is_not_read(tmp_path: Path) -> None:
    entry = {"key_metadata": [{"key": "a"}]}
    metadata = {"use_ocdbt": False, "tree_metadata": {"a": entry}}
    (tmp_path / "_METADATA").write_text(json.dumps(metadata))
    (tmp_path / "a").mkdir()
    described = {"zarr_format": 2, "shape": [2], "chunks": [10**9], "dtype": "<f4", "order": "C"}
    described |= {"compressor": None, "fill_value": None, "filters": None}
    (tmp_path / "a" / ".zarray").write_text(json.dumps(described))
    with pytest.raises(ValueError, match="larger than the array"):
        open_arrays(tmp_path)
