"""Loss spikes, dumps, trackers, profiles and utilization of a run."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from command_cases import without_progress
from quick_compile import AS_IN_A_RUN
from training_cases import (
    KEY,
    FakeBatches,
    batch_for,
    fresh_state,
    random_state,
    single_mesh,
    small_config,
    small_parts,
    train,
    train_step,
)

from stts_jax.batch import TEXT_FIELDS, VISUAL_FIELDS
from stts_jax.budget import row_budget
from stts_jax.config import ConfigError, load_config
from stts_jax.data.bad_examples import Unreadable
from stts_jax.parallel.mesh import make_mesh, replicated, shard_batch
from stts_jax.parallel.parameters import named_parameters
from stts_jax.training import dump as dump_module
from stts_jax.training import loss_spikes
from stts_jax.training import replay as replay_module
from stts_jax.training.checkpointing.load import save_model
from stts_jax.training.checkpointing.restore import restore_latest
from stts_jax.training.checkpointing.save import Checkpoints
from stts_jax.training.dump import fingerprint, read_dump, write_dump
from stts_jax.training.flops import Throughput, peak_flops
from stts_jax.training.log import read_metrics, total_norm
from stts_jax.training.nan_check import TrainingError
from stts_jax.training.replay import main as replay
from stts_jax.training.replay import replay as replayed
from stts_jax.training.step import abstract_state, init_state, make_train_step
from stts_jax.training.trackers import flat

SKIP = "train.skip_loss_spikes=3"
# For steps of which only the frame around the model matters: it compiles in half the time.
FEW_PARTS = (
    "model.vit.layers=2",
    "model.vit.feature_layers=[-1]",
    "model.prune.method=none",
    "model.prune.topk=0",
)


def watched(losses, norms=None, factor=3.0):
    """Returns whether each step is a spike, and the state after them."""
    state, found = loss_spikes.init_spike_state(), []
    step = jax.jit(lambda state, loss, norm: loss_spikes.detect_spike(state, loss, norm, factor))
    for loss, norm in zip(losses, norms or [1.0] * len(losses), strict=True):
        spike, state = step(state, np.float32(loss), np.float32(norm))
        found.append(bool(spike))
    return found, state


def test_a_jump_of_loss_or_norm_is_a_spike_once_there_is_a_history():
    calm = [2.0] * loss_spikes.HISTORY
    found, state = watched([*calm, 5.9, 7.5, 2.0])
    assert found == [False] * (loss_spikes.HISTORY + 1) + [True, False]
    assert int(state.skipped) == 1 and int(state.taken) == loss_spikes.HISTORY + 2
    assert watched([2.0] * 30, [1.0] * 29 + [3.1])[0][-1]
    assert not any(watched([9.0, 1.0, 50.0])[0])


def test_a_spike_stays_out_of_the_means_and_nan_is_none():
    state = watched([2.0] * 25)[1]
    after = watched([2.0] * 25 + [1e6])[1]
    assert float(after.loss) == float(state.loss) and float(after.weight) == float(state.weight)
    assert not watched([2.0] * 25 + [np.nan])[0][-1]


def spiky_state(mean, *overrides):
    """A state whose means say that losses have been around `mean` for long."""
    zero, config = loss_spikes.init_spike_state(), small_config(*overrides)
    means = dataclasses.replace(
        zero, loss=zero.loss + mean, norm=zero.norm + 1e9, weight=zero.weight + 1
    )
    means = dataclasses.replace(means, taken=zero.taken + 100)
    placed = jax.device_put(means, replicated(single_mesh()))
    return dataclasses.replace(random_state(config), spikes=placed)


@cache
def step_as_in_a_run(*overrides):
    """Compiled as outside of tests: code that the tests' flags make differs in the last bit."""
    config = small_config(*overrides)
    state = abstract_state(config, single_mesh())
    return train_step(*overrides).lower(state, batch_for(config, 0), KEY).compile(AS_IN_A_RUN)


def test_without_a_spike_the_option_changes_no_bit():
    config = small_config(*FEW_PARTS)
    plain, watching = random_state(config), spiky_state(1e9, *FEW_PARTS)
    step, watching_step = step_as_in_a_run(*FEW_PARTS), step_as_in_a_run(*FEW_PARTS, SKIP)
    for seed in range(3):
        plain, metrics = step(plain, batch_for(config, seed), KEY)
        watching, watched_metrics = watching_step(watching, batch_for(config, seed), KEY)
        assert all(float(metrics[name]) == float(watched_metrics[name]) for name in metrics)
    for part in ("model", "optimizer"):
        one, other = (named_parameters(getattr(s, part)) for s in (plain, watching))
        for name, array in one.items():
            np.testing.assert_array_equal(array, other[name], err_msg=name)
    assert int(watched_metrics["skipped"]) == 0


def test_a_spike_leaves_parameters_and_moments_as_they_are():
    config, state = small_config(*FEW_PARTS), spiky_state(0.1, *FEW_PARTS)
    before = jax.device_get((state.model, state.optimizer))
    state, metrics = step_as_in_a_run(*FEW_PARTS, SKIP)(state, batch_for(config, 0), KEY)
    after = jax.device_get((state.model, state.optimizer))
    assert all(map(np.array_equal, jax.tree.leaves(before), jax.tree.leaves(after)))
    assert int(metrics["skipped"]) == 1 and int(state.step) == 1


def test_the_means_of_spikes_survive_and_start_anew_where_there_were_none(tmp_path):
    state = spiky_state(0.5)
    with Checkpoints(tmp_path / "with", 1, small_config().data) as checkpoints:
        checkpoints.save(state, 1, {}, {0: None})
    with Checkpoints(tmp_path / "without", 1, small_config().data) as checkpoints:
        checkpoints.save(fresh_state(), 1, {}, {0: None})
    abstract = abstract_state(small_config(SKIP), single_mesh())
    restored, _ = restore_latest(tmp_path / "with", abstract)
    assert float(restored.spikes.loss) == 0.5 and int(restored.spikes.taken) == 100
    restored, _ = restore_latest(tmp_path / "without", abstract)
    assert int(restored.spikes.taken) == 0
    plain, _ = restore_latest(tmp_path / "with", abstract_state(small_config(), single_mesh()))
    assert plain.spikes is None


def broken_from(step_number):
    def make(*_):
        def step(state, batch, key):
            state, metrics = train_step()(state, batch, key)
            bad = np.float32(np.inf if int(state.step) == step_number else 1.0)
            return state, metrics | {"loss": bad}

        return step

    return make


@pytest.fixture
def dump(tmp_path):
    parts = small_parts(make_step=broken_from(4))
    with pytest.raises(TrainingError, match=r"training stopped at step 4, batch") as error:
        train(small_config("train.save_every=2"), tmp_path, parts=parts)
    return tmp_path / "dumps" / "step-4", str(error.value)


def test_a_loss_that_is_not_finite_leaves_batch_setup_and_randomness(dump):
    folder, message = dump
    assert f"python -m stts_jax.training.replay {folder}" in message
    found, config, batch = read_dump(folder)
    batches = FakeBatches(small_config())
    wanted = [next(batches) for _ in range(4)][-1]
    jax.tree.map(np.testing.assert_array_equal, batch, wanted)
    assert found.fingerprint == fingerprint(wanted) and found.fingerprint in message
    assert fingerprint(wanted) != fingerprint(next(batches))
    assert config == small_config("train.save_every=2")
    assert (found.step, found.seed, found.metrics["loss"]) == (4, config.train.seed, "inf")
    assert found.checkpoint == str(folder.parents[1].resolve() / "checkpoints" / "2")


def test_a_dump_is_replayed(dump, capsys):
    folder, _ = dump
    assert replay([str(folder)]) == 0  # the batch is innocent: the test made the loss up
    text = capsys.readouterr().out
    assert "all finite here" in text and "then: inf" in text
    # The loss of these parameters on this batch, with this step's key.
    state, _ = restore_latest(folder.parents[1], abstract_state(small_config(), single_mesh()))
    config = read_dump(folder)[1]
    state = dataclasses.replace(state, step=state.step + 1)
    _, metrics = train_step()(state, batch_for(config, 4), KEY)
    assert f"loss             {float(metrics['loss']):.6g}" in text
    assert replay([str(folder.parent)]) == 2
    assert "there is no dump in" in capsys.readouterr().err


@pytest.fixture(scope="module")
def dump_of_parts(tmp_path_factory):
    """The dump of a batch that two devices took in two parts, and the metrics of its step."""
    folder = tmp_path_factory.mktemp("parts")
    config = small_config("train.accumulate=2", "model.llm.residual_dropout=0.5", *FEW_PARTS)
    mesh = make_mesh({"data": 2}, jax.devices()[:2])
    state, budget = random_state(config, mesh), row_budget(config.model, config.data)
    checkpoint = save_model(state.model, config, folder)
    batch = next(FakeBatches(config))
    key = jax.random.key(config.train.seed)
    _, metrics = make_train_step(config, budget, mesh)(state, shard_batch(batch, mesh), key)
    then = {name: float(value) for name, value in metrics.items()}
    return write_dump(folder, config, mesh, 1, batch, then, checkpoint), then


@pytest.mark.parametrize("devices", [8, 1])
def test_a_dump_of_several_parts_is_replayed_in_these_parts(dump_of_parts, monkeypatch, devices):
    """On the run's mesh of two devices or on one; dropout tells which rows a part had."""
    folder, then = dump_of_parts
    used = []
    load_model = replay_module.load_model

    def load(folder, config, mesh):
        used.append(mesh.size)
        return load_model(folder, config, mesh)

    monkeypatch.setattr(replay_module, "load_model", load)
    here = jax.devices()[:devices]
    monkeypatch.setattr(jax, "devices", lambda *_: here)
    found = replayed(folder)
    assert used == [min(devices, 2)]
    for name in ("loss", "total_loss", "accuracy"):
        assert found[name] == pytest.approx(then[name], rel=1e-5), name
    assert found["gradient_norm"] == pytest.approx(total_norm(then), rel=1e-4)


def test_a_dump_has_every_row_once_and_in_its_place(tmp_path, monkeypatch):
    """Also where rows of a process don't follow each other, or two processes hold the same."""
    config = small_config("data.batch_rows=4")
    batch = next(FakeBatches(config))
    held = ([0, 2], [1, 3], [1, 3])
    monkeypatch.setattr(jax, "process_count", lambda: len(held))
    for index, rows in enumerate(held):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        monkeypatch.setattr(dump_module, "local_rows", lambda *_, rows=rows: np.array(rows))
        own = jax.tree.map(lambda array, rows=rows: array[rows], batch)
        folder = write_dump(tmp_path, config, single_mesh(), 1, own, {}, None)
    jax.tree.map(np.testing.assert_array_equal, read_dump(folder)[2], batch)


def test_the_arrays_of_a_dump_are_named_as_in_the_batch(tmp_path):
    batch = next(FakeBatches(small_config()))
    folder = write_dump(tmp_path, small_config(), single_mesh(), 1, batch, {}, None)
    with np.load(folder / "batch-0-of-1.npz") as arrays:
        assert set(arrays) == {*VISUAL_FIELDS, *TEXT_FIELDS, "row_numbers"}


@pytest.mark.parametrize("name", ["batch-0-of-1.npz", "step.json"])
@pytest.mark.parametrize("left", [0, 0.5])
def test_a_dump_that_is_cut_short_is_refused_in_a_sentence(tmp_path, capsys, name, left):
    config = small_config()
    batch = next(FakeBatches(config))
    folder = write_dump(tmp_path, config, single_mesh(), 1, batch, {"loss": 1.0}, None)
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: int(left * len(whole))])
    assert replay([str(folder)]) == 2
    said = capsys.readouterr().err
    assert f"replay: '{folder / name}' is cut short" in said and said.count("\n") == 1


def test_a_dump_from_before_the_first_save_is_replayed_as_the_run_began(tmp_path, monkeypatch):
    without_scorer = small_config("model.prune.method=none", "model.prune.topk=0")
    save_model(random_state(without_scorer).model, without_scorer, tmp_path / "base")
    parts = small_parts(make_step=broken_from(1), init_state=init_state)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TrainingError):
        train(small_config(), tmp_path / "run", init_from=Path("base"), parts=parts)
    monkeypatch.chdir("/")
    folder = tmp_path / "run" / "dumps" / "step-1"
    found, then = replayed(folder), read_dump(folder)[0].metrics
    assert [found[name] for name in ("accuracy", "kept")] == [then["accuracy"], then["kept"]]
    # It is the scorer's: a fresh one, as in the run.
    assert found["auxiliary_loss"] == pytest.approx(then["auxiliary_loss"], rel=1e-5)


def test_a_tracker_that_is_not_installed_is_one_sentence(tmp_path, monkeypatch):
    for setting, module, extra in (
        ("train.tensorboard=true", "tensorboardX", "tensorboard"),
        ("train.wandb=mine", "wandb", "wandb"),
    ):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ConfigError, match=rf"{module} is not installed.*stts-jax\[{extra}\]"):
            train(small_config(setting), tmp_path / "run")
        assert not (tmp_path / "run" / "checkpoints").exists()


def test_trackers_get_what_the_log_line_shows(tmp_path, monkeypatch):
    written, calls = [], []

    class Writer:
        def __init__(self, folder, purge_step):
            calls.append((folder, purge_step))

        def add_scalar(self, name, value, step):
            written.append((name, step))

        def close(self):
            calls.append("closed")

    def init(**options):
        calls.append((options["project"], options["id"]))
        log = lambda values, step: written.extend((f"w/{n}", step) for n in values)  # noqa: E731
        return SimpleNamespace(id="abc", log=log, finish=lambda: calls.append("finished"))

    monkeypatch.setitem(sys.modules, "tensorboardX", SimpleNamespace(SummaryWriter=Writer))
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    settings = ("train.tensorboard=true", "train.wandb=mine", "train.evaluate_every=4")
    evaluate = lambda *_: {"accuracy": 0.5}  # noqa: E731
    train(small_config(*settings, "train.steps=4"), tmp_path, evaluate=evaluate)
    names = {"loss", "gradient_norm", "tokens_per_second_per_device", "time/compile", "kept"}
    assert names <= {name for name, step in written if step == 2}
    assert {f"w/{name}" for name in names} <= {name for name, step in written if step == 4}
    assert ("evaluation/accuracy", 4) in written
    folder = str(tmp_path / "tensorboard")
    assert calls == [(folder, None), ("mine", None), "finished", "closed"]
    train(small_config(*settings, "train.steps=5"), tmp_path)
    assert calls[4:6] == [(folder, 5), ("mine", "abc")]
    assert flat({"a": {"b": 1.0}, "c": 2.0}) == {"a/b": 1.0, "c": 2.0}


def test_a_tracker_that_cannot_start_is_one_sentence_before_the_first_step(tmp_path, monkeypatch):
    def init(**_):
        raise RuntimeError("api_key not configured (no-tty).\nSee the docs")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    message = r"train\.wandb is 'mine', but wandb cannot start \(api_key not configured .*login`"
    with pytest.raises(ConfigError, match=message) as raised:
        train(small_config("train.wandb=mine"), tmp_path)
    assert "\n" not in str(raised.value) and read_metrics(tmp_path / "metrics.jsonl") == []


def test_a_profile_of_the_steps_asked_for(tmp_path, monkeypatch):
    traced = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: traced.append(folder))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: traced.append("stop"))
    seen = []

    def note(step, _):
        seen.append((step, len(traced)))

    train(small_config("train.profile=[3, 4]"), tmp_path, on_step=note)
    assert traced == [str(tmp_path / "profile"), "stop"]
    # A step is looked at when the next one has been started.
    assert dict(seen) == {1: 0, 2: 1, 3: 1, 4: 2, 5: 2, 6: 2, 7: 2, 8: 2}
    with pytest.raises(ConfigError, match=r"train\.profile is \[4, 3\]"):
        small_config("train.profile=[4, 3]")


def test_a_real_profile_is_written(tmp_path):
    train(small_config("train.profile=[2, 2]", "train.steps=2"), tmp_path)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_time_is_counted_over_resumptions(tmp_path):
    train(small_config("train.steps=4"), tmp_path)
    summary = train(small_config("train.steps=8"), tmp_path)
    times = [r["window"] for r in read_metrics(tmp_path / "metrics.jsonl") if "window" in r]
    for name in ("compile", "data", "step", "save", "eval"):
        column = [window[f"time/{name}"] for window in times]
        assert column == sorted(column), name
        assert summary.buckets[name] >= column[-1]
    assert times[0]["time/step"] > 0
    assert json.loads(json.dumps(summary.buckets))


@pytest.mark.parametrize("bucket", ["save", "eval"])
def test_time_spent_after_the_last_checkpoint_is_counted_too(tmp_path, monkeypatch, bucket):
    """Waiting until it is written, and evaluating at its step."""

    def evaluate(model, step):
        time.sleep(0.2 if bucket == "eval" else 0.0)
        return {"accuracy": 0.5}

    settings = "train.steps=2", "train.evaluate_every=2"
    with monkeypatch.context() as patch:
        if bucket == "save":
            patch.setattr(Checkpoints, "wait", lambda _: time.sleep(0.2))
        first = train(small_config(*settings), tmp_path, evaluate=evaluate)
    assert first.buckets[bucket] >= 0.2
    again = train(small_config(*settings), tmp_path, evaluate=evaluate)
    assert again.buckets[bucket] >= first.buckets[bucket]


def test_fill_rates_are_logged(tmp_path, capsys):
    train(small_config("train.steps=2"), tmp_path)
    batches = FakeBatches(small_config())
    for _ in range(2):
        next(batches)
    wanted = batches.fill_rates.as_dict()
    windows = [r["window"] for r in read_metrics(tmp_path / "metrics.jsonl") if "window" in r]
    assert [{n: w[f"fill/{n}"] for n in wanted} for w in windows] == [wanted]
    assert f"| fill {100 * wanted['tokens']:.0f} % |" in capsys.readouterr().out


def test_bad_examples_are_counted_in_every_place_that_a_run_tells(tmp_path, capsys):
    class Batches(FakeBatches):
        def __next__(self):
            if self.number == 3:
                self.bad.add(Unreadable("example 3 of 'mine'", "'a.mp4' is empty"))
            return super().__next__()

    parts = small_parts(open_data=Batches)
    summary = train(small_config("train.steps=4"), tmp_path, parts=parts)
    records = read_metrics(tmp_path / "metrics.jsonl")
    windows = [r["window"]["bad_examples"] for r in records if "window" in r]
    assert windows == [0, 1] and summary.bad_examples == 1
    early, late, *rest = without_progress(capsys.readouterr().out).splitlines()
    assert "bad" not in early and late.endswith("| bad examples 1")
    assert "bad examples that were left out: 1; warnings above name them" in rest


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("TPU v4", 275e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5", 459e12),
        ("TPU v6 lite", 918e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H200", 989e12),
        ("cpu", None),
    ],
)
def test_peak_rates(kind, peak):
    assert peak_flops(kind) == peak


def test_utilisation_counts_the_vit_before_and_after_the_prune():
    def flops(ratio):
        config = load_config(
            "molmo2_4b_stts_50", [f"model.prune.topk={ratio}", "data.batch_rows=8"]
        )
        return Throughput.of(config, [SimpleNamespace(device_kind="NVIDIA H100")] * 8)

    whole, half = flops(0.0), flops(0.5)
    assert 0.4 < half.flops / whole.flops < 0.8
    assert half.mfu(1.0) == pytest.approx(half.flops / (8 * 989e12))
    assert dataclasses.replace(half, peak=None).mfu(1.0) is None
