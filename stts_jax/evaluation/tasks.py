"""Answering and scoring tasks: datasets as the suites name them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from stts_jax.budget import Budget
from stts_jax.config import Config, replace
from stts_jax.data.datasets.base import dataset_class
from stts_jax.data.evaluation_batches import batches_of_prompts
from stts_jax.data.example_chain import example_rng
from stts_jax.evaluation.results import TaskPrediction, TaskResult, find_reusable, score_shares
from stts_jax.evaluation.runner import answer
from stts_jax.evaluation.scoring.judge import Judge
from stts_jax.evaluation.suites import Task
from stts_jax.model.video_language_model import VideoLanguageModel
from stts_jax.parallel.mesh import mesh_of, rows_for
from stts_jax.parallel.processes import ALONE, Share
from stts_jax.training.checkpoint import identity_of


@dataclasses.dataclass(frozen=True)
class TaskRun:
    """How tasks are answered.

    Attributes:
      root: folder that the datasets lie below.
      checkpoint: folder that the model was loaded from, of one step.
      limit: only that many questions of each, the first; all if None.
      frames_scale: times `data.max_frames` frames are taken at most.
      progress: whether to show bars.
      judge: of free answers; they stay unjudged without one.
      notice: takes a line of text.
      share: of the questions, for this process; see `evaluate_split`.
    """

    root: Path
    checkpoint: Path
    limit: int | None = None
    frames_scale: float = 1.0
    progress: bool = False
    judge: Judge | None = None
    notice: Callable[[str], None] = print
    share: Share = ALONE


def evaluate_tasks(
    model: VideoLanguageModel, config: Config, tasks: Sequence[Task], folder: Path, run: TaskRun
) -> list[TaskResult]:
    """Answer tasks that have no saved result of the same settings; all results, saved.

    The first process saves. In the others, results that were saved before are left out.

    Args:
      model: as trained; its configuration decides what is pruned.
      config: of the checkpoint; its data part decides how videos are read.
      tasks: to answer.
      folder: of the results, one for each task.
      run: how.

    Raises:
      DatasetError: if a dataset is not there; those of the tasks before are saved by then.
    """
    settings = _settings(model, config, run)
    results = []
    budgets: dict[int, Budget] = {}
    for task in tasks:
        saved = _saved(folder, task, settings, run) if run.share.index == 0 else None
        if run.share.gather(saved is not None)[0]:
            results += [saved] if saved is not None else []
            continue
        result = _answered(model, config, task, settings, run, budgets)
        if run.share.index == 0:
            result.save(folder)
        results.append(result)
    return results


def _saved(folder: Path, task: Task, settings: dict[str, Any], run: TaskRun) -> TaskResult | None:
    found = find_reusable(folder, task, settings)
    for line in found.differing:
        run.notice(f"{task.label} is answered anew: {line}")
    if found.result is not None:
        run.notice(f"{task.label}: the saved result is used")
    return found.result


def _answered(
    model: VideoLanguageModel,
    config: Config,
    task: Task,
    settings: dict[str, Any],
    run: TaskRun,
    budgets: dict[int, Budget],
) -> TaskResult:
    """Answer and score; `budgets` has those that were compiled for, by frames of a video."""
    config = replace(
        dataclasses.replace(config, model=model.config),
        {"data.topk": None, "eval.max_new_tokens": task.max_new_tokens, "eval.temperature": 0.0},
    )
    if task.max_frames is not None:
        frames = min(config.data.max_frames, task.max_frames)
        config = replace(config, {"data.max_frames": frames})
    dataset = dataset_class(task.dataset)(run.root, task.split)
    count = len(dataset) if run.limit is None else min(run.limit, len(dataset))
    examples = [(i, dataset.get(i, example_rng(i, 0))) for i, _ in run.share.of(range(count))]
    run.notice(f"{task.label}: {count} questions")
    frames = config.data.max_frames
    prompts = batches_of_prompts(
        config,
        examples,
        frames_scale=run.frames_scale,
        rows=rows_for(config.eval.batch_rows, mesh_of(model)),
        budget=budgets.get(frames),
    )
    answers = answer(model, config, prompts, progress=run.progress)
    budgets[frames] = prompts.budget
    if answers.unreadable:
        run.notice(f"{task.label}: {prompts.bad.report()}")
    predictions = [
        TaskPrediction(prompt.index, prompt.text, said, prompt.metadata)
        for prompt, said in answers.said
    ]
    return score_shares(task, predictions, settings, run.share, run.judge)


def _settings(model: VideoLanguageModel, config: Config, run: TaskRun) -> dict[str, Any]:
    """All that a result depends on, beside the task."""
    return {
        "checkpoint": identity_of(run.checkpoint),
        "model": dataclasses.asdict(model.config),
        "data": dataclasses.asdict(config.data),
        "batch_rows": config.eval.batch_rows,
        "limit": run.limit,
        "frames_scale": run.frames_scale,
        "judge": None if run.judge is None else str(run.judge),
    }
