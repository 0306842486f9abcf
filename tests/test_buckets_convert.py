"""Checkpoints are converted from a bucket and into it as on a disk, block by block."""

import jax
import numpy as np
import pytest
from convert_cases import SCORED, write_hf
from convert_commands import refused

from convert import pipeline
from convert.__main__ import main
from convert.cache import local_checkpoint
from stts_jax.buckets.bucket_path import BucketPath
from stts_jax.parallel.parameters import named_parameters
from stts_jax.training.checkpointing.checkpoint_errors import CheckpointError
from stts_jax.training.checkpointing.load import load_model
from stts_jax.training.checkpointing.run_folder import find_checkpoint


def uploaded(folder, target):
    for file in folder.rglob("*"):
        if file.is_file():
            (target / file.relative_to(folder)).write_bytes(file.read_bytes())
    return target


@pytest.fixture(scope="module")
def hf(tmp_path_factory):
    return write_hf(tmp_path_factory.mktemp("hf") / "model", SCORED)


@pytest.fixture(scope="module")
def hf_in_bucket(hf, bucket):
    return uploaded(hf, bucket / "hf")


@pytest.fixture(scope="module")
def ours(hf, tmp_path_factory):
    return converted(hf, tmp_path_factory.mktemp("ours") / "model")


def converted(source, target, *flags):
    assert main([str(source), str(target), *flags]) == 0
    return target


def arrays_of(folder):
    return jax.device_get(named_parameters(load_model(folder)[0]))


def assert_equal(folder, other):
    one, two = arrays_of(folder), arrays_of(other)
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)


def test_a_checkpoint_goes_from_a_bucket_to_a_bucket(hf_in_bucket, ours, bucket, monkeypatch):
    most = []
    read = BucketPath.read_range

    def noting(path, start, stop):
        most.append(stop - start)
        return read(path, start, stop)

    monkeypatch.setattr(BucketPath, "read_range", noting)
    target = converted(hf_in_bucket, bucket / "ours")
    assert_equal(target, ours)
    assert max(most) <= 64 << 20 and len(most) > 20, "rows are read, not files"
    assert not (target / ".converting").exists()
    back = converted(target, bucket / "back", "--to", "hf")
    names = {path.name for path in back.iterdir()}
    assert names >= {"config.json", "model.safetensors"} and ".converting" not in names
    assert_equal(converted(back, bucket / "again"), ours)


def test_a_conversion_into_a_bucket_that_was_killed_counts_as_nothing(
    hf, ours, bucket, monkeypatch
):
    target = bucket / "killed"

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "_finish", killed)
        patch.setattr(pipeline, "delete_folder", lambda _: None)
        assert main([str(hf), str(target)]) == 130
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        find_checkpoint(target)
    assert_equal(converted(hf, target), ours)


def test_a_folder_of_a_bucket_that_is_full_is_refused(hf, bucket, capsys):
    (bucket / "full/notes.txt").write_text("mine")
    assert f"'{bucket}/full' is there already" in refused(capsys, hf, bucket / "full")
    assert (bucket / "full/notes.txt").read_text() == "mine"


def test_a_checkpoint_of_another_form_is_converted_once(hf_in_bucket, ours, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    said = []
    copy = local_checkpoint(hf_in_bucket, said.append)
    assert copy.is_relative_to(tmp_path) and local_checkpoint(hf_in_bucket, said.append) == copy
    assert said[-1] == f"'{hf_in_bucket}' was converted before: using '{copy}'"
    assert_equal(copy, ours)
