"""Saves answers before a judge scores them: it may fail, or be replaced later."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stts_jax.buckets.whole_files import write_whole
from stts_jax.evaluation.results import (
    ResultError,
    TaskPrediction,
    differing_settings,
    json_text,
    prediction_to_plain,
    result_folder,
    with_task,
)
from stts_jax.evaluation.suites import Task
from stts_jax.parallel.processes import Share

ANSWERS_FILE = "answers.json"


def save_answers(
    folder: Path,
    task: Task,
    predictions: Sequence[TaskPrediction],
    settings: Mapping[str, Any],
    share: Share,
) -> None:
    """Write the answers of all processes to `result_folder(folder, task)`.

    Args:
      folder: of the results, one for each task.
      task: that was answered.
      predictions: of this process.
      settings: that the answers depend on; the judge is none of these.
      share: of the questions, for this process; the first one writes.
    """
    parts = share.gather([prediction_to_plain(prediction) for prediction in predictions])
    if share.index != 0:
        return
    directory = result_folder(folder, task)
    directory.mkdir(parents=True, exist_ok=True)
    answers = sorted((a for part in parts for a in part), key=lambda answer: answer["index"])
    found = {"settings": with_task(task, settings), "predictions": answers}
    write_whole(directory / ANSWERS_FILE, json_text(found))


def find_answers(
    folder: Path, task: Task, settings: Mapping[str, Any], share: Share
) -> list[TaskPrediction] | None:
    """Returns this process's share of saved answers; None if their settings differ.

    Raises:
      ResultError: if it is damaged.
    """
    found = None
    if share.index == 0:
        found = _read(result_folder(folder, task), with_task(task, settings))
    found = share.gather(found)[0]
    return None if found is None else [TaskPrediction(**answer) for _, answer in share.of(found)]


def _read(directory: Path, settings: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    if not (directory / ANSWERS_FILE).is_file():
        return None
    try:
        saved = json.loads((directory / ANSWERS_FILE).read_text("utf-8"))
        return None if differing_settings(saved["settings"], settings) else saved["predictions"]
    except (ValueError, KeyError, TypeError) as error:
        raise ResultError(
            f"the answers in '{directory}' are damaged ({error}); remove that folder"
        ) from error
