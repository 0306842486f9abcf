"""The tiny model answers every benchmark: from files on disk to the table beside the paper."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import benchmark_fixtures
import dataset_fixtures
import jax
import pytest
from arbitrary_models import arbitrary_model
from command_cases import without_progress
from goldens_folder import REPOSITORY

import eval as eval_command
from stts_jax.config import load_config
from stts_jax.evaluation import tasks
from stts_jax.evaluation.results import TaskResult
from stts_jax.evaluation.runner import Answers
from stts_jax.evaluation.scoring.judge import HttpJudge, Judge, JudgeError
from stts_jax.evaluation.suites import tasks_of
from stts_jax.evaluation.tasks import TaskRun, evaluate_tasks
from stts_jax.parallel.mesh import make_mesh
from stts_jax.training.checkpointing.load import load_model, save_model
from stts_jax.training.checkpointing.run_folder import find_checkpoint

SETTINGS = ["data.max_frames=2", "data.row_frames=2", "eval.batch_rows=2", "model.llm.layers=1"]
ALL_MODES = "video,video_pointing"


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("video_datasets")
    dataset_fixtures.build_root(folder)
    benchmark_fixtures.build_root(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    config = load_config("tiny", SETTINGS)
    folder = tmp_path_factory.mktemp("run")
    save_model(arbitrary_model(config.model), config, folder)
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert eval_command.main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def test_every_benchmark_is_answered_saved_and_compared(
    root, checkpoint, tmp_path, capsys, monkeypatch
):
    # An untrained model doesn't end, and pointing may take 2048 tokens.
    short = [dataclasses.replace(task, max_new_tokens=8) for task in tasks_of(ALL_MODES)]
    monkeypatch.setattr(eval_command, "tasks_of", lambda _: short)
    flags = ["--checkpoint", checkpoint, "--mode", ALL_MODES, "--root", root, "--limit", 1]
    printed = run(capsys, *flags, "--output", tmp_path)
    for task in tasks_of(ALL_MODES):
        folder = tmp_path / "k50" / f"{task.name}-{task.split}"
        predictions = json.loads((folder / "predictions.json").read_text())
        metrics = json.loads((folder / "metrics.json").read_text())
        assert len(predictions) == 1 and predictions[0]["prompt"]
        assert metrics["settings"]["limit"] == 1
        assert f"\n{task.label} " in printed
    assert "STTS 50 %" in printed and "Average" in printed


@pytest.fixture
def quick_answers(monkeypatch) -> list[int]:
    """Every question is answered with A, by no model; how many were, in each task."""
    counts = []

    def answer(model, config, batches, **_):
        said = [(prompt, "A") for _, prompts, _ in batches for prompt in prompts]
        counts.append(len(said))
        return Answers(said, questions_per_s=0.0, unreadable=0)

    monkeypatch.setattr(tasks, "answer", answer)
    return counts


def test_saved_results_are_used_again_unless_a_setting_differs(
    root, checkpoint, tmp_path, capsys, quick_answers
):
    flags = ["--checkpoint", checkpoint, "--mode", "tomato", "--root", root, "--output", tmp_path]
    run(capsys, *flags)
    assert "tomato:test: the saved result is used" in run(capsys, *flags)
    again = run(capsys, *flags, "--limit", 1)
    assert "tomato:test is answered again: limit: None, now 1" in again
    assert len(quick_answers) == 2


def test_saved_results_of_another_checkpoint_or_judge_are_not_used(
    root, checkpoint, tmp_path, quick_answers
):
    # On one device: to save what eight have copies of, 200 slices would be compiled.
    model, config = load_model(checkpoint, mesh=make_mesh(devices=jax.devices()[:1]))
    copied = tmp_path / "copied"

    def differing(folder: Path, judge: HttpJudge | None = None) -> list[str]:
        lines = []
        asked = TaskRun(root, find_checkpoint(folder), limit=1, judge=judge, notice=lines.append)
        evaluate_tasks(model, config, tasks_of("tomato"), tmp_path / "results", asked)
        return [line.split(" again: ")[1].split(": ")[0] for line in lines if " again: " in line]

    assert differing(checkpoint) == []
    shutil.copytree(checkpoint, copied)
    assert differing(copied) == ["checkpoint.path"]
    save_model(model, config, copied)  # a step that is written in the place of another
    assert differing(copied) == ["checkpoint.saved_ns"]
    judges = [HttpJudge(name, key_variable=None) for name in ("small", "large")]
    assert [differing(copied, judge) for judge in judges] == [["judge"], ["judge"]]
    assert differing(copied, judges[1]) == [] and quick_answers == [1] * 5


def test_answers_outlive_a_judge_that_fails(root, checkpoint, tmp_path, quick_answers):
    model, config = load_model(checkpoint)
    lines = []

    def evaluated(folder: str, judge: Judge | None) -> list[TaskResult]:
        asked = TaskRun(root, find_checkpoint(checkpoint), judge=judge, notice=lines.append)
        modes = tasks_of("temp_compass,mlvu_gen")
        return evaluate_tasks(model, config, modes, tmp_path / folder, asked)

    def failing(instructions: str, request: str) -> str:
        raise JudgeError("the judge is away")

    def judge(instructions: str, request: str) -> str:
        return 'Answer: A. Correct {"score_accuracy": 3, "score_completeness": 4}'

    for _ in range(2):
        with pytest.raises(JudgeError):
            evaluated("interrupted", failing)
        assert len(quick_answers) == 1  # nothing is answered again
    again = evaluated("interrupted", judge)
    assert "temp_compass:validation: the saved answers are used" in lines
    answered = len(quick_answers)
    whole = evaluated("whole", judge)
    assert len(quick_answers) == answered + 2
    assert [r.metrics() for r in again] == [r.metrics() for r in whole]
    evaluated("whole", None)
    assert len(quick_answers) == answered + 2
    assert any(line.startswith("mlvu_gen:validation is judged again: judge: ") for line in lines)


def test_two_processes_answer_what_one_answers(root, checkpoint, tmp_path, capsys):
    flags = ["--checkpoint", checkpoint, "--mode", "tomato,mvbench", "--root", root]
    printed = run(capsys, *flags, "--output", tmp_path / "one")
    logs = run_together(2, *flags, "--output", tmp_path / "two")
    for task in ("tomato-test", "mvbench-validation"):
        for name in ("predictions.json", "metrics.json"):
            one = json.loads((tmp_path / "one" / "k50" / task / name).read_text())
            two = json.loads((tmp_path / "two" / "k50" / task / name).read_text())
            assert one == two and len(one) > 1
    # The first prints the tables, the other nothing.
    assert set(printed.splitlines()[:-1]) <= set(logs[0]) and logs[1] == []


def run_together(count: int, *arguments: object) -> list[list[str]]:
    """The lines that each process of one evaluation prints."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    common = {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(REPOSITORY / ".jax_cache"),
        "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
        "JAX_NUM_PROCESSES": str(count),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, REPOSITORY / "eval.py", *map(str, arguments)],
            env=os.environ | common | {"JAX_PROCESS_ID": str(index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(count)
    ]
    results = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0] * count, results[0][1][-2000:]
    lines = [printed.splitlines() for printed, _ in results]
    return [[line for line in part if not line.startswith("[Gloo]")] for part in lines]


@pytest.fixture
def unloaded(monkeypatch) -> None:
    monkeypatch.setattr(
        eval_command, "load_to_answer", lambda *_: pytest.fail("the model is loaded")
    )


def test_a_judge_without_a_key_is_refused_before_anything_is_loaded(
    root, checkpoint, capsys, monkeypatch, unloaded
):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    arguments = ["--checkpoint", checkpoint, "--mode", "temp_compass", "--root", root]
    assert eval_command.main([*map(str, arguments), "--judge", "grader"]) == 2
    assert "'OPENAI_API_KEY'" in capsys.readouterr().err


def test_an_output_that_cannot_be_written_is_refused_before_anything_is_loaded(
    root, checkpoint, tmp_path, capsys, unloaded
):
    (tmp_path / "file").touch()
    output = tmp_path / "file" / "eval"
    arguments = ["--checkpoint", checkpoint, "--mode", "tomato", "--root", root, "--output", output]
    assert eval_command.main([*map(str, arguments)]) == 2
    assert f"folder '{output / 'k50'}' cannot be written" in capsys.readouterr().err


def test_a_judge_that_fails_is_one_sentence(root, checkpoint, tmp_path, capsys, monkeypatch):
    def failing(*_, **__):
        raise JudgeError("the judge is away")

    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setattr(eval_command, "evaluate_tasks", failing)
    arguments = ["--checkpoint", checkpoint, "--mode", "temp_compass", "--root", root]
    more = ["--judge", "grader", "--output", str(tmp_path)]
    assert eval_command.main([*map(str, arguments), *more]) == 2
    assert without_progress(capsys.readouterr().err) == "eval.py: the judge is away\n"


def test_a_missing_root_is_named_before_anything_is_loaded(checkpoint, capsys, unloaded):
    arguments = ["--checkpoint", str(checkpoint), "--mode", "tomato", "--root", "/nowhere"]
    assert eval_command.main(arguments) == 2
    assert "--root is /nowhere" in capsys.readouterr().err
