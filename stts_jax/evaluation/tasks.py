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
from stts_jax.evaluation.results import (
    Reuse,
    TaskPrediction,
    TaskResult,
    find_reusable,
    score_task,
)
from stts_jax.evaluation.runner import answer, rows_of_batch
from stts_jax.evaluation.saved_answers import find_answers, save_answers
from stts_jax.evaluation.scoring.judge import Judge
from stts_jax.evaluation.scoring.registry import may_ask_judge
from stts_jax.evaluation.suites import Task
from stts_jax.model.video_language_model import VideoLanguageModel, Weights
from stts_jax.parallel.mesh import mesh_of
from stts_jax.parallel.processes import ALONE, Share
from stts_jax.training.checkpointing.run_folder import identity_of

JUDGE = "judge"


@dataclasses.dataclass(frozen=True)
class TaskRun:
    """Settings of a run over tasks.

    Attributes:
      root: folder of the datasets.
      checkpoint: folder that the model was loaded from, of one step.
      limit: only that many questions of each, the first; all if None.
      frames_scale: times `data.max_frames` frames are taken at most.
      progress: whether to show bars.
      judge: of free answers; they stay unjudged without one.
      notice: takes a line of text.
      share: of the questions, for this process; see `evaluate_questions`.
      weights: type of the model's weights.
    """

    root: Path
    checkpoint: Path
    limit: int | None = None
    frames_scale: float = 1.0
    progress: bool = False
    judge: Judge | None = None
    notice: Callable[[str], None] = print
    share: Share = ALONE
    weights: Weights = "compute"


def evaluate_tasks(
    model: VideoLanguageModel, config: Config, tasks: Sequence[Task], folder: Path, run: TaskRun
) -> list[TaskResult]:
    """Answer tasks that have no saved result of the same settings; all results, saved.

    The first process saves. In the others, results that were saved before are left out. Where a
    judge may be asked, the answers are saved before, and used again if only the judge is another.

    Args:
      model: as trained; its configuration decides what is pruned.
      config: of the checkpoint; its data part decides how videos are read.
      tasks: to answer.
      folder: of the results, one for each task.
      run: how.

    Raises:
      DatasetError: if a dataset is not there; those of the tasks before are saved by then.
      JudgeError: if the judge gives no opinion; all answers so far are saved by then.
    """
    settings = _settings(model, config, run)
    asked = {name: value for name, value in settings.items() if name != JUDGE}
    results = []
    budgets: dict[int, Budget] = {}
    for task in tasks:
        found = find_reusable(folder, task, settings) if run.share.index == 0 else Reuse(None)
        if run.share.gather(found.result is not None)[0]:
            run.notice(f"{task.label}: the saved result is used")
            results += [found.result] if found.result is not None else []
            continue
        judged = may_ask_judge(task.metric)
        predictions = find_answers(folder, task, asked, run.share) if judged else None
        how = "judged" if predictions is not None else "answered"
        for line in found.differing:
            run.notice(f"{task.label} is {how} again: {line}")
        if predictions is not None:
            run.notice(f"{task.label}: the saved answers are used")
        else:
            predictions = _answered(model, config, task, run, budgets)
            if judged:
                save_answers(folder, task, predictions, asked, run.share)
        result = score_task(task, predictions, settings, run.judge, run.share)
        if run.share.index == 0:
            result.save(folder)
        results.append(result)
    return results


def _answered(
    model: VideoLanguageModel,
    config: Config,
    task: Task,
    run: TaskRun,
    budgets: dict[int, Budget],
) -> list[TaskPrediction]:
    """The share of this process; `budgets` are those compiled for, by frames of a video."""
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
    run.notice(f"{task.label}: {count} question{'' if count == 1 else 's'}")
    frames = config.data.max_frames
    prompts = batches_of_prompts(
        config,
        examples,
        frames_scale=run.frames_scale,
        rows=rows_of_batch(config, len(examples), mesh_of(model)),
        budget=budgets.get(frames),
    )
    answers = answer(model, config, prompts, progress=run.progress)
    budgets[frames] = prompts.budget
    if answers.unreadable:
        run.notice(f"{task.label}: {prompts.bad.report()}")
    return [
        TaskPrediction(prompt.index, prompt.text, said, prompt.metadata)
        for prompt, said in answers.said
    ]


def _settings(model: VideoLanguageModel, config: Config, run: TaskRun) -> dict[str, Any]:
    """All that a result depends on, beside the task."""
    return {
        "checkpoint": identity_of(run.checkpoint),
        "model": dataclasses.asdict(model.config),
        "data": dataclasses.asdict(config.data),
        "batch_rows": config.eval.batch_rows,
        "limit": run.limit,
        "frames_scale": run.frames_scale,
        JUDGE: None if run.judge is None else str(run.judge),
        # Results of earlier versions have no such entry, and are of whole weights.
        **({} if run.weights == "compute" else {"weights": run.weights}),
    }
