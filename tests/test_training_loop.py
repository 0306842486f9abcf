"""The loop: resuming, stopping, and what it writes."""

import json
import os
import re
import signal
import time
from dataclasses import replace as replace_field

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dataset_fixtures import build_root
from training_cases import (
    ENDED,
    small_config,
    small_parts,
    train,
    train_step,
)

import train as command
from stts_jax.config import replace
from stts_jax.data.questions import question_of
from stts_jax.evaluation import while_training
from stts_jax.evaluation.runner import Evaluation
from stts_jax.training.checkpointing.checkpoint_errors import CheckpointError
from stts_jax.training.checkpointing.run_folder import checkpoint_steps
from stts_jax.training.checkpointing.save import Checkpoints
from stts_jax.training.clock import Clock
from stts_jax.training.flops import Throughput
from stts_jax.training.log import MetricsLog, Window, log_line, read_metrics
from stts_jax.training.nan_check import TrainingError
from stts_jax.training.plots import plot_training

LINE = re.compile(
    r"step \d+/\d+ \(\d+\.\d %\) \| loss \d+\.\d{4} \| temporal loss \d+\.\d{4} \| "
    r"lr \d\.\de-\d\d \| gnorm \d+\.\d\d \| kept \d+ % \| \d+ tok/s/dev \| "
    r"(MFU \d+\.\d % \| )?(fill \d+ % \| )?"
    r"data wait \d+ % \| "
    r"ETA (\d+ days?, )?\d+:\d\d:\d\d( \| skipped \d+)?"
)
METRICS = {
    "loss": 1.0,
    "auxiliary_loss": 0.25,
    "accuracy": 0.5,
    "kept": 0.5,
    "learning_rate/llm": 1e-5,
    "gradient_norm/llm": 3.0,
    "gradient_norm/vit": 4.0,
    "data_wait": 0.1,
    "tokens": 1000,
}
H100 = Throughput(devices=8, flops=8 * 989e12 / 4, peak=989e12)


class CrashError(Exception):
    """Ends the runs of these tests."""


def crash_at(crashing):
    def crash(step, metrics):
        if step == crashing:
            raise CrashError

    return crash


def losses(output):
    return {r["step"]: r["loss"] for r in read_metrics(output / "metrics.jsonl") if "loss" in r}


def test_a_run_leaves_everything_and_resumes_bit_for_bit(tmp_path, capsys):
    config, seen = small_config(), []
    whole = train(
        config,
        tmp_path / "whole",
        on_step=lambda step, m: seen.append((step, m)),
        parts=small_parts(plot=plot_training),
    )
    assert whole.step == 8 and not whole.stopped
    assert whole.steps_per_s > 0
    assert [step for step, _ in seen] == list(range(1, 9))
    assert (tmp_path / "whole" / "loss.png").stat().st_size > 1000
    assert checkpoint_steps(tmp_path / "whole") == [4, 8]
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step")]
    assert len(lines) == 4 and all(LINE.fullmatch(line) for line in lines), lines

    with pytest.raises(CrashError):
        train(config, tmp_path / "parts", on_step=crash_at(6))
    assert set(losses(tmp_path / "parts")) == set(range(1, 7))
    resumed = train(config, tmp_path / "parts")
    assert "resuming" in capsys.readouterr().out
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    for name, value in whole.metrics.items():
        assert name == "data_wait" or resumed.metrics[name] == value, name

    again = train(config, tmp_path / "parts")
    assert again.step == 8 and again.metrics == {}
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")

    with pytest.raises(CheckpointError, match=r"another model, with model\.prune\.topk=0\.25 "):
        train(small_config("model.prune.topk=0.25"), tmp_path / "parts")
    # Other data: the parameters stay, the stream starts from the beginning.
    train(small_config("data.seed=5", "train.steps=9"), tmp_path / "parts")
    assert (
        "data start from the beginning, as the settings changed: data.seed=5"
        in capsys.readouterr().out
    )
    train(small_config("train.steps=2"), tmp_path / "parts", resume=False)
    assert checkpoint_steps(tmp_path / "parts") == [2]
    assert set(losses(tmp_path / "parts")) == {1, 2}


def test_other_data_start_anew_until_a_checkpoint_holds_their_place(tmp_path, capsys):
    """`config.json` already has their settings when a run crashes before its first checkpoint."""
    other = small_config("data.seed=5")
    for name in ("whole", "parts"):
        train(small_config("train.steps=4"), tmp_path / name)
    train(other, tmp_path / "whole")
    with pytest.raises(CrashError):
        train(other, tmp_path / "parts", on_step=crash_at(6))
    capsys.readouterr()
    train(other, tmp_path / "parts")
    assert (
        "data start from the beginning, as the settings changed: data.seed=5"
        in capsys.readouterr().out
    )
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    train(replace(other, {"train.steps": 9}), tmp_path / "parts")
    assert "start from the beginning" not in capsys.readouterr().out


def test_another_number_of_workers_keeps_the_place_in_the_data(tmp_path, capsys):
    config = small_config("train.steps=4")
    train(config, tmp_path)
    train(replace(config, {"data.workers": 2, "train.steps": 5}), tmp_path)
    assert "start from the beginning" not in capsys.readouterr().out


def test_sigterm_saves_and_leaves(tmp_path, capsys):
    def terminate(step, metrics):
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    summary = train(small_config(), tmp_path, on_step=terminate)
    assert summary.stopped and summary.step == 3
    assert checkpoint_steps(tmp_path) == [3]
    assert "stopped at step 3 by SIGTERM; the checkpoint is saved" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGTERM) is before
    assert train(small_config("train.steps=4"), tmp_path).step == 4


def test_a_loss_that_is_not_a_number_stops_the_run(tmp_path):
    def broken(*_):
        def step(state, batch, key):
            state, metrics = train_step()(state, batch, key)
            bad = np.float32(np.nan if int(state.step) == 4 else 1.0)
            return state, metrics | {"loss": bad}

        return step

    parts = small_parts(make_step=broken)
    with pytest.raises(TrainingError, match=r"step 4, batch [0-9a-f]{12}: loss is nan; look into"):
        train(small_config("train.save_every=2"), tmp_path, parts=parts)
    assert checkpoint_steps(tmp_path) == [2]


@pytest.mark.parametrize("part", ["model", "optimizer"])
def test_an_update_that_overflows_is_not_saved(tmp_path, part):
    """Loss and gradients of its step are finite, and no step has come after it."""

    def overflowing(*_):
        def step(state, batch, key):
            state, metrics = train_step()(state, batch, key)
            if int(state.step) == 4:
                arrays, structure = jax.tree.flatten(getattr(state, part))
                last = max(n for n, array in enumerate(arrays) if array.ndim)
                arrays[last] = jnp.full_like(arrays[last], jnp.inf)
                state = replace_field(state, **{part: jax.tree.unflatten(structure, arrays)})
            return state, metrics

        return step

    message = (
        rf"step 4, batch [0-9a-f]{{12}}: its update left '{part}\..*' not finite; look into it"
    )
    parts = small_parts(make_step=overflowing)
    with pytest.raises(TrainingError, match=message):
        train(small_config("train.save_every=2"), tmp_path, parts=parts)
    assert checkpoint_steps(tmp_path) == [2] and (tmp_path / "dumps" / "step-4").is_dir()


def test_evaluation_is_called_written_and_drawn(tmp_path, capsys):
    calls = []

    def evaluate(model, step):
        calls.append((step, type(model).__name__))
        return {"accuracy": step / 10}

    config = small_config("train.evaluate_every=2", "train.steps=5", "train.log_every=0")
    summary = train(config, tmp_path, evaluate=evaluate)
    assert calls == [(step, "VideoLanguageModel") for step in (2, 4, 5)]
    assert summary.evaluation == {"accuracy": 0.5}
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert [r["evaluation"] for r in records if "evaluation" in r] == [
        {"accuracy": 0.2},
        {"accuracy": 0.4},
        {"accuracy": 0.5},
    ]
    assert "step 4/5 evaluated | accuracy 0.400" in capsys.readouterr().out


def test_an_evaluation_that_was_missed_is_made_up_for(tmp_path):
    settings = ("train.evaluate_every=2", "train.save_every=2", "train.steps=4")

    def interrupted(model, step):
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        return {"accuracy": 0.5}

    summary = train(small_config(*settings), tmp_path, evaluate=interrupted)
    assert (summary.step, summary.stopped_by, summary.left_running) == (2, "SIGTERM", True)
    calls = []

    def evaluate(model, step):
        calls.append(step)
        return {"accuracy": 0.5}

    train(small_config(*settings), tmp_path, evaluate=evaluate)
    assert calls == [2, 4]
    train(small_config(*settings), tmp_path, evaluate=evaluate)
    assert calls == [2, 4]


def test_the_best_checkpoint_of_a_run_is_kept(tmp_path):
    settings = ("train.evaluate_every=1", "train.save_every=1", "train.steps=5")
    keep = "train.keep_checkpoints=1"
    scores = {1: 0.1, 2: 0.9, 3: 0.3, 4: 0.9, 5: 0.2}
    evaluate = lambda model, step: {"accuracy": scores[step]}  # noqa: E731
    train(small_config(*settings, keep), tmp_path / "best", evaluate=evaluate)
    assert checkpoint_steps(tmp_path / "best") == [2, 5]
    config = small_config(*settings, keep, "train.keep_best=false")
    train(config, tmp_path / "newest", evaluate=evaluate)
    assert checkpoint_steps(tmp_path / "newest") == [5]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "train.optimizer=muon",
            r"another optimizer state, of train\.optimizer=muon \(saved: adamw",
        ),
        ("train.freeze_base_embedding=true", r"train\.freeze_base_embedding=True \(saved: False"),
    ],
)
def test_another_optimizer_is_refused_at_the_start(tmp_path, setting, message):
    train(small_config("train.steps=1"), tmp_path)
    before = (tmp_path / "config.json").read_text()
    with pytest.raises(CheckpointError, match=message):
        train(small_config(setting), tmp_path)
    assert (tmp_path / "config.json").read_text() == before


def test_a_run_starts_from_another(tmp_path, capsys):
    train(small_config("train.steps=1"), tmp_path / "first")
    train(small_config("train.steps=1"), tmp_path / "second", init_from=tmp_path / "first")
    assert "starting from the parameters in" in capsys.readouterr().out
    with pytest.raises(CheckpointError, match="there is no checkpoint in"):
        train(small_config(), tmp_path / "third", init_from=tmp_path / "nothing")


@pytest.mark.parametrize(
    ("throughput", "mfu"), [(H100, "MFU 25.0 % | "), (Throughput(8, 1e15, None), "")]
)
def test_log_line(throughput, mfu):
    window = Window(throughput)
    window.add(METRICS, 10.0, 11.0)
    window.add(METRICS | {"loss": 3.0}, 11.0, 12.0)
    line = log_line(120, 6250, window.close(6250 - 120, 2.0))
    assert LINE.fullmatch(line)
    assert line == (
        "step 120/6250 (1.9 %) | loss 2.0000 | temporal loss 0.2500 | lr 1.0e-05 | gnorm 5.00 | "
        f"kept 50 % | 125 tok/s/dev | {mfu}data wait 10 % | ETA 0:51:05"
    )


def test_skipped_steps_are_in_the_log_line():
    window = Window(H100)
    window.add(METRICS | {"skipped": 3}, 0.0, 1.0)
    assert log_line(1, 2, window.close(1, None)).endswith("| skipped 3")


def test_a_log_line_names_the_group_of_its_rate_where_the_llm_is_frozen():
    window = Window(H100)
    metrics = {name: value for name, value in METRICS.items() if not name.endswith("/llm")}
    window.add(metrics | {"learning_rate/scorer": 1e-4}, 0.0, 1.0)
    assert "| lr 1.0e-04 (scorer) |" in log_line(1, 2, window.close(1, None))


def test_metrics_are_cut_at_the_resumed_step(tmp_path):
    log = MetricsLog(tmp_path, 0)
    for step in (1, 2, 3):
        log.write({"step": step, "loss": 0.5})
    log.close()
    with log.path.open("a") as file:
        file.write('{"step": 4, "lo')
    MetricsLog(tmp_path, 2).close()
    assert [json.loads(line)["step"] for line in log.path.read_text().splitlines()] == [1, 2]
    MetricsLog(tmp_path, 0).close()
    assert log.path.read_text() == ""
    assert plot_training(tmp_path) is None


def test_lines_that_are_no_records_keep_no_run_from_going_on(tmp_path):
    config = small_config("train.steps=2", "train.save_every=1")
    train(config, tmp_path)
    file, before = tmp_path / "metrics.jsonl", losses(tmp_path)
    junk = [b"7", b"null", b'"step"', b'[{"step": 1}]', b'{"loss": 1.0}', b'{"step": "1"}', b"\0\0"]
    spoiled = b'{"step": 1, "loss": 0.\xff}'
    file.write_bytes(b"\n".join([*junk, spoiled, file.read_bytes(), b'{"step": 3, "lo']))
    assert train(replace(config, {"train.steps": 3}), tmp_path).step == 3
    assert losses(tmp_path).keys() == {1, 2, 3}
    assert before.items() <= losses(tmp_path).items()


def test_the_clock_counts_compiling_saving_and_evaluating_apart(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    clock = Clock({"step": 70.0, "data": 30.0, "save": 5.0})

    def spend(bucket, seconds):
        with clock.spending(bucket):
            now[0] += seconds

    spend("compile", 600.0)
    for seconds in [60.0, 1.0, 1.0, 1.0, 1.0]:
        now[0] += seconds
        clock.step_done()
        assert clock.steps_per_second is None
    spend("eval", 1000.0)
    spend("save", 2.0)
    for _ in range(4):
        spend("data", 0.25)
        now[0] += 0.25
        clock.step_done()
    assert clock.steps_per_second == 2.0
    assert clock.seconds == 100.0 + 64.0 + 2.0
    assert clock.buckets == {
        "compile": 600.0,
        "data": 31.0,
        "step": 70.0 + 64.0 + 1.0,
        "save": 7.0,
        "eval": 1000.0,
    }


def test_the_last_checkpoint_is_waited_for_in_the_time_of_saves(tmp_path, monkeypatch):
    monkeypatch.setattr(Checkpoints, "save", lambda *_: None)
    monkeypatch.setattr(Checkpoints, "wait", lambda _: time.sleep(0.2))
    summary = train(small_config("train.steps=1"), tmp_path)
    assert summary.buckets["save"] >= 0.2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "huge"], "there is no config named 'huge'"),
        (["--set", "train.stepz=3"], "unknown setting 'train.stepz'; did you mean 'steps'"),
        (["--set", "model.prune.topk=2", "--set", "train.steps=1"], "model.prune.topk is 2.0"),
    ],
)
def test_wrong_settings_end_in_one_line(tmp_path, capsys, arguments, message):
    assert command.main(["--output", str(tmp_path / "run"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", ["--output", "--init-from"])
def test_an_address_of_another_store_is_refused(option, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["--output", "run", option, "s3://bucket/run"]
    with pytest.raises(SystemExit) as left:
        command.main(arguments)
    assert left.value.code == 2 and not list(tmp_path.iterdir())
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"argument {option}: 's3://bucket/run' cannot be opened: s3:// is no store" in said


def test_help_lists_setups_and_examples(capsys):
    with pytest.raises(SystemExit):
        command.main(["--help"])
    text = capsys.readouterr().out
    assert "molmo2_4b_stts_50" in " ".join(text.split()) and "python train.py --config tiny" in text


@pytest.mark.parametrize(
    ("validation", "problem"),
    [
        ("no.jsonl", "'no.jsonl' does not exist; check the path"),
        ("dataset:tgif", "is not one question with the text of its answer"),
        ("mixture:all-v5-video-academic-only", "dataset 'activitynet_all_qa': "),
    ],
)
def test_validation_questions_that_cannot_be_read_are_named_before_a_run_starts(
    validation, problem, tmp_path, capsys, monkeypatch
):
    build_root(tmp_path / "datasets")
    monkeypatch.chdir(tmp_path)
    started = []

    def run(*_, evaluate, **options):
        started.append(evaluate)
        return ENDED

    monkeypatch.setattr(command, "train", run)
    settings = [f"data.validation={validation}", "data.root=datasets", "train.evaluate_every=4"]
    small_config(*settings, "train.steps=4").save(tmp_path)
    arguments = ["--config", "config.json", "--output", "run"]
    assert command.main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"train.py: data.validation is '{validation}', which cannot be evalu")
    assert problem in said and said.endswith(
        ", or set train.evaluate_every=0 to train without evaluating\n"
    )
    assert said.count("\n") == 1 and started == []
    assert command.main([*arguments, "--set", "train.evaluate_every=0"]) == 0 and started == [None]


def test_validation_questions_are_read_once_and_only_as_many_as_are_answered(tmp_path, monkeypatch):
    lines = [{"video": f"{i}.mp4", "question": "What?", "answer": str(i)} for i in range(3)]
    path = tmp_path / "validation.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    asked = []

    def answered(model, config, examples):
        asked.append([question_of(example).answer for example in examples])
        return Evaluation([], visual_tokens=0, questions_per_s=0.0, unreadable=0)

    monkeypatch.setattr(while_training, "evaluate_questions", answered)
    config = small_config(f"data.validation={path}", "train.evaluate_examples=2")
    evaluate = while_training.evaluation(config, tmp_path)
    path.unlink()
    for step in (4, 8):
        assert evaluate(None, step) == {"accuracy": 0.0}
    assert asked == [["0", "1"]] * 2


def test_a_command_trains(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command, "train", train)
    settings = ["train.steps=2", "train.evaluate_every=0"]
    overrides = command.parse(["--output", "x", "--set", *settings, "--set", "a=1"]).overrides
    assert overrides == [*settings, "a=1"]
    small_config("train.steps=2").save(tmp_path)
    arguments = ["--config", str(tmp_path / "config.json"), "--output", str(tmp_path / "run")]
    assert command.main(arguments) == 0
    assert "done at step 2; everything is in" in capsys.readouterr().out


def test_the_last_line_has_the_rate_of_the_others(tmp_path):
    """Also where a step is computed while it is started, as CPUs do."""

    def slow(*_):
        def step(state, batch, key):
            time.sleep(0.2)
            return train_step()(state, batch, key)

        return step

    config = small_config("train.steps=3", "train.log_every=1", "train.save_every=0")
    train(config, tmp_path, parts=small_parts(make_step=slow))
    windows = [r["window"] for r in read_metrics(tmp_path / "metrics.jsonl") if "window" in r]
    assert len(windows) == 3
    assert all(window["steps_per_second"] < 1 / 0.19 for window in windows)


def test_two_accuracies_have_a_picture_each(tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr(
        "stts_jax.training.plots.Figure.savefig",
        lambda figure, *_, **__: titles.extend(axis.get_title() for axis in figure.axes),
    )
    with MetricsLog(tmp_path, 0) as log:
        log.write({"step": 1, **METRICS})
        plot_training(tmp_path)
        log.write({"step": 1, "evaluation": {"accuracy": 0.5}})
        plot_training(tmp_path)
    training, validation = "training: tokens predicted right", "validation: answers that are right"
    assert titles == 2 * ["loss", training, "temporal loss"] + [validation]
