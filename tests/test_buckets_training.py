"""A run in a bucket is the run that it would be on a disk, whatever is killed or damaged there."""

import json
import os
import signal
from functools import cache

import jax
import numpy as np
import pytest
from bucket_faults import CUT_OFF, RESET, UNAVAILABLE, FaultyProxy
from bucket_server import environment_of
from process_runs import Launcher, losses, until
from training_cases import batch_for, random_state, single_mesh, small_config, small_parts
from training_process import toy_step

from stts_jax import output_lock
from stts_jax.buckets import address
from stts_jax.buckets.address import path_of
from stts_jax.buckets.errors import BucketError
from stts_jax.parallel.parameters import named_parameters
from stts_jax.training import run
from stts_jax.training.checkpointing.checkpoint_errors import CheckpointError
from stts_jax.training.checkpointing.load import load_model
from stts_jax.training.checkpointing.run_folder import (
    checkpoint_steps,
    config_of,
    find_checkpoint,
    unfinished_steps,
)
from stts_jax.training.dump import fingerprint, read_dump, write_dump

RUN = ("train.steps=12", "train.save_every=4", "train.evaluate_every=4", "train.log_every=4")
SHORT = (*RUN, "train.steps=8")


def score(model, step):
    return {"accuracy": 0.5 if step == 4 else 0.25}


@cache
def compiled_once():
    return toy_step(small_config(*RUN), None, single_mesh())


def train(output, *overrides, **options):
    parts = small_parts(
        make_step=lambda *_: compiled_once(),
        init_state=lambda config, mesh, key: random_state(config, mesh),
        plot=lambda folder: (folder / "loss.png").write_bytes(b"drawn"),
    )
    options = {"evaluate": score, "parts": parts, **options}
    return run.train(small_config(*RUN, *overrides), output, **options)


def named_arrays(folder):
    return jax.device_get(named_parameters(load_model(folder)[0]))


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory):
    output = tmp_path_factory.mktemp("run")
    train(output)
    return output


@pytest.fixture(scope="module")
def in_bucket(bucket):
    train(bucket / "runs" / "first")
    return bucket / "runs" / "first"


def files_of(folder):
    return {path.name for path in folder.iterdir()}


def test_a_run_in_a_bucket_is_that_on_a_disk(on_disk, in_bucket):
    assert losses(in_bucket) == losses(on_disk) and len(losses(on_disk)) == 12
    assert checkpoint_steps(in_bucket) == checkpoint_steps(on_disk) == [4, 8, 12]
    assert config_of(in_bucket) == config_of(on_disk)
    assert files_of(on_disk) <= files_of(in_bucket) | {"library-0.log"}
    assert files_of(in_bucket) >= {"metrics.jsonl", "loss.png", "config.json", "checkpoints"}
    assert_equal(named_arrays(in_bucket), named_arrays(on_disk))


def test_the_best_checkpoint_is_kept_in_a_bucket(bucket):
    train(bucket / "best", "train.keep_checkpoints=1", "train.keep_best=true")
    assert checkpoint_steps(bucket / "best") == [4, 12]
    assert json.loads((bucket / "best/checkpoints/best.json").read_text())["step"] == 4


def copied(run, output):
    """Another run, of which the last step is gone."""
    for file in run.rglob("*"):
        if "checkpoints/12/" not in str(file):
            (output / file.relative_to(run)).write_bytes(file.read_bytes())
    return output


def test_a_damaged_step_is_named_and_the_one_before_it_is_read(bucket, in_bucket, capsys):
    output = copied(in_bucket, bucket / "damaged")
    for file in (output / "checkpoints/8/model").rglob("*"):
        if "/d/" in str(file):
            file.unlink()
    train(output)
    said = capsys.readouterr().out
    assert f"checkpoint '{output}/checkpoints/8' is damaged" in said
    assert f"resuming '{output}' at step 4" in said
    named = json.loads((output / "damaged/8.json").read_text())
    assert named["step"] == 8 and named["reason"]
    assert checkpoint_steps(output) == [4, 8, 12] and losses(output) == losses(in_bucket)


def test_a_step_without_its_commit_file_does_not_count(bucket, in_bucket):
    output = copied(in_bucket, bucket / "uncommitted")
    (output / "checkpoints/8/commit_success.txt").unlink()
    assert checkpoint_steps(output) == [4] and find_checkpoint(output).name == "4"
    with pytest.raises(
        CheckpointError, match=r"checkpoints/8' is damaged or incomplete \(.*commit"
    ):
        find_checkpoint(output / "checkpoints/8")


@pytest.fixture(scope="module")
def launcher(bucket_server):
    launcher = Launcher()
    yield launcher
    launcher.close()


def first_losses(output):
    return {step: loss for step, loss in losses(output).items() if step <= 8}


def test_a_run_that_was_killed_in_a_save_goes_on_bit_for_bit(
    bucket, tmp_path, launcher, in_bucket, capsys
):
    output = bucket / "killed"
    first = launcher.start(tmp_path, *SHORT, run=str(output))
    until(lambda: 8 in unfinished_steps(output), "the second save", pause=0.05)
    first.kill()
    assert checkpoint_steps(output) == [4] and unfinished_steps(output) == [8]
    train(output, *SHORT)
    assert "which is gone; its lock is removed" in capsys.readouterr().out
    assert losses(output) == first_losses(in_bucket) and unfinished_steps(output) == []


def test_a_run_through_faults_is_the_run_without_them(
    bucket_server, bucket, tmp_path, launcher, on_disk
):
    proxy, output = FaultyProxy(bucket_server.port), bucket / "faulty"
    faults = {20: UNAVAILABLE, 40: RESET, 60: CUT_OFF, 80: UNAVAILABLE, 100: CUT_OFF, 120: RESET}
    count = iter(range(10**9))
    proxy.faults.latency = 0.002
    proxy.faults.fault_of = lambda *_: faults.get(next(count))
    try:
        environment = environment_of(proxy.url)
        launcher.start(tmp_path, *SHORT, run=str(output), environment=environment).finish()
    finally:
        proxy.close()
    assert sum(proxy.faults.done[fault] for fault in (UNAVAILABLE, RESET, CUT_OFF)) == len(faults)
    assert losses(output) == first_losses(on_disk)
    assert checkpoint_steps(output) == [4, 8]


@pytest.mark.slow
def test_two_processes_train_in_one_bucket_and_one_goes_on(
    bucket, tmp_path, launcher, in_bucket, capsys
):
    output = bucket / "together"
    runs = launcher.start_several(2, tmp_path, *SHORT, "train.steps=4", run=str(output))
    assert [run.finish()["step"] for run in runs] == [4, 4]
    assert checkpoint_steps(output) == [4] and not (output / "lock").exists()
    train(output, *SHORT)
    assert f"resuming '{output}' at step 4" in capsys.readouterr().out
    assert losses(output) == pytest.approx(first_losses(in_bucket), rel=1e-5)


def test_a_second_process_is_refused(bucket, tmp_path, launcher):
    output = bucket / "two"
    first = launcher.start(tmp_path, *RUN, run=str(output), hang="data")
    until((tmp_path / "hanging").exists, "the first to run")
    with pytest.raises(CheckpointError) as refused:
        train(output)
    first.signal(signal.SIGTERM)
    first.finish()
    said = f"'{output}' is in use by process {first.pid} on host '{os.uname().nodename}' (training)"
    assert str(refused.value).startswith(said)
    assert not (output / "lock").exists() and checkpoint_steps(output) == [2]


def test_a_lock_is_touched_and_taken_over_in_a_bucket(bucket, monkeypatch):
    monkeypatch.setattr(output_lock, "STALE_SECONDS", 0.3)
    monkeypatch.setattr(output_lock, "_WATCH_SECONDS", 0.05)
    monkeypatch.setattr(output_lock, "_machine", lambda: "another machine")
    held = output_lock.OutputLock(bucket / "held", "training")
    held._file.create(held._content)
    before = held._file.version()
    held._file.touch(held._content)
    assert held._file.version() != before and held.is_held()
    monkeypatch.setattr(output_lock, "_machine", lambda: "this machine")
    with output_lock.hold_output(bucket / "held", "training", lambda _: None) as lock:
        assert lock.is_held() and not held.is_held()
    assert output_lock.HEARTBEAT_SECONDS < 60, (
        "a bucket takes one write of a file a second, and bills each"
    )


def test_a_new_run_starts_from_a_bucket_and_deletes_what_is_in_its_own(bucket, in_bucket, capsys):
    output = bucket / "second"
    copied(in_bucket, output)
    train(output, "train.steps=1", init_from=in_bucket, resume=False)
    assert checkpoint_steps(output) == [1]
    assert f"starting from the parameters in '{in_bucket}'" in capsys.readouterr().out
    with pytest.raises(CheckpointError, match="lies in --output"):
        train(in_bucket, init_from=in_bucket / "checkpoints/4", resume=False)


def test_a_dump_in_a_bucket_is_read_again(bucket):
    output = bucket / "dumped"

    config = small_config(*RUN)
    batch = batch_for(config, 0)
    folder = write_dump(output, config, single_mesh(), 3, batch, {"loss": float("nan")}, None)
    assert folder == output / "dumps/step-3"
    dump, found, again = read_dump(folder)
    assert dump.step == 3 and found == config and fingerprint(again) == dump.fingerprint


def test_what_cannot_be_opened_is_said_in_one_sentence(bucket, monkeypatch):
    with pytest.raises(
        CheckpointError, match=r"'gs://no-such-bucket/run'.*no such bucket; make it"
    ):
        train(path_of("gs://no-such-bucket/run"))
    with pytest.raises(
        BucketError, match=r"'s3://b/run' cannot be opened: s3:// is no store.*copy"
    ):
        path_of("s3://b/run")
    with pytest.raises(
        BucketError, match=r"'gs:///run' cannot be opened: it names no bucket; write"
    ):
        path_of("gs:///run")
    monkeypatch.setattr(address.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(BucketError, match=r"gcsfs is not installed; install it with `pip install"):
        path_of("gs://bucket/run")
