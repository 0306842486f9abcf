"""Results of a task as files: scores, every answer, and the settings."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stts_jax.evaluation.scoring.judge import Judge
from stts_jax.evaluation.scoring.registry import metric_named
from stts_jax.evaluation.scoring.score import (
    Mean,
    Metadata,
    Score,
    Scores,
    Summary,
    score_answers,
    summarize,
)
from stts_jax.evaluation.suites import Task
from stts_jax.parallel.processes import ALONE, Share

METRICS_FILE = "metrics.json"
PREDICTIONS_FILE = "predictions.json"
TASK_SETTING = "task"


class ResultError(ValueError):
    """A saved result that cannot be read; the message names the file and the remedy."""


@dataclass(frozen=True)
class TaskPrediction:
    """An answer to a question of a task.

    Attributes:
      index: of the question in its dataset.
      prompt: what the model was given, as text.
      answer: what it said, without special tokens.
      metadata: of the question.
    """

    index: int
    prompt: str
    answer: str
    metadata: Metadata = field(default_factory=dict)


@dataclass(frozen=True)
class TaskResult:
    """The result of a model on a task.

    Attributes:
      task: that was answered.
      settings: everything else that the result depends on: checkpoint, config, judge, ...
      summary: scores.
      predictions: in the order of the dataset.
    """

    task: Task
    settings: Mapping[str, Any]
    summary: Summary
    predictions: tuple[TaskPrediction, ...]

    def save(self, folder: Path) -> Path:
        """Write `metrics.json` and `predictions.json` to `result_folder(folder, task)`."""
        directory = result_folder(folder, self.task)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / METRICS_FILE).unlink(missing_ok=True)
        write_json(directory / PREDICTIONS_FILE, [prediction_to_plain(p) for p in self.predictions])
        # Last, because its presence says that a result is complete.
        write_json(directory / METRICS_FILE, self.metrics())
        return directory

    def metrics(self) -> dict[str, Any]:
        """The content of `metrics.json`; a mean over no question is null."""
        summary = self.summary
        return {
            "score": _number(summary.value),
            "score_fixed_rule": _number(summary.fixed_value),
            "notes": summary.notes(),
            "settings": with_task(self.task, self.settings),
            "summary": {
                **dataclasses.asdict(summary),
                "published": _means_to_plain(summary.published),
                "fixed": _means_to_plain(summary.fixed),
            },
        }

    @classmethod
    def load(cls, folder: Path, task: Task) -> TaskResult:
        """Loads a result that `save` wrote.

        Raises:
          ResultError: if it is not there or damaged.
        """
        directory = result_folder(folder, task)
        try:
            metrics = json.loads((directory / METRICS_FILE).read_text("utf-8"))
            predictions = json.loads((directory / PREDICTIONS_FILE).read_text("utf-8"))
            settings = dict(metrics["settings"])
            stored = metrics["summary"]
            means = {
                rule: {name: Mean(*_numbers(pair)) for name, pair in stored[rule].items()}
                for rule in ("published", "fixed")
            }
            return cls(
                task=Task(**settings.pop(TASK_SETTING)),
                settings=settings,
                summary=Summary(**{**stored, **means}),
                predictions=tuple(TaskPrediction(**p) for p in predictions),
            )
        except FileNotFoundError:
            raise ResultError(f"no result of '{task.label}' is in '{directory}'") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ResultError(
                f"the result in '{directory}' is damaged ({error}); remove that folder"
            ) from error


@dataclass(frozen=True)
class Reuse:
    """Whether a saved result can be used instead of a run.

    Attributes:
      result: the saved one, None if it may not be used.
      differing: settings that differ, each with both values, if that is why.
    """

    result: TaskResult | None
    differing: tuple[str, ...] = ()


def score_task(
    task: Task,
    predictions: Sequence[TaskPrediction],
    settings: Mapping[str, Any],
    judge: Judge | None = None,
    share: Share = ALONE,
) -> TaskResult:
    """Scores answers, each process its share; all of them get the whole.

    Saved answers can be scored again, for instance once there is a judge. Scoring comes before the
    exchange because it may need what JSON doesn't hold, such as masks.

    Raises:
      ScoringError: if the metric does not suit the questions.
    """
    metric = metric_named(task.metric, judge)
    scores = score_answers(
        metric,
        [p.answer for p in predictions],
        [p.metadata for p in predictions],
        [p.index for p in predictions],
    )
    found = list(zip(predictions, scores, strict=True))
    if share.count > 1:
        parts = share.gather([_with_scores_to_plain(p, s) for p, s in found])
        found = [_with_scores_of(*entry) for part in parts for entry in part]
        found.sort(key=lambda entry: entry[0].index)
    summary = summarize(metric, [scores for _, scores in found])
    return TaskResult(task, settings, summary, tuple(prediction for prediction, _ in found))


def result_folder(folder: Path, task: Task) -> Path:
    """Returns the folder of a task's result; two splits of a task have two folders."""
    return folder / f"{task.name}-{task.split}"


def find_reusable(folder: Path, task: Task, settings: Mapping[str, Any]) -> Reuse:
    """The saved result of a task, if it was made with the same settings, all of them.

    Raises:
      ResultError: if there is a result that is damaged.
    """
    if not (result_folder(folder, task) / METRICS_FILE).is_file():
        return Reuse(None)
    result = TaskResult.load(folder, task)
    differing = differing_settings(
        with_task(result.task, result.settings), with_task(task, settings)
    )
    return Reuse(None, tuple(differing)) if differing else Reuse(result)


def differing_settings(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """The settings that are not the same, as "model.prune.topk: 0.5, now 0.3"."""
    before, now = dict(_flat(_settings(saved))), dict(_flat(_settings(wanted)))
    return [
        f"{name}: {_shown(before, name)}, now {_shown(now, name)}"
        for name in sorted({*before, *now})
        if name not in before or name not in now or before[name] != now[name]
    ]


def with_task(task: Task, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they are saved: what JSON gives back of them, and the task among them."""
    return _settings({TASK_SETTING: dataclasses.asdict(task), **settings})


def _settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings as JSON gives them back; all are kept, since all must be compared."""
    return json.loads(json.dumps(values, default=str))


def _shown(values: Mapping[str, Any], name: str) -> str:
    return repr(values[name]) if name in values else "not set"


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def prediction_to_plain(prediction: TaskPrediction) -> dict[str, Any]:
    """Returns a JSON object, without metadata that JSON can't hold."""
    return {**dataclasses.asdict(prediction), "metadata": _plain(prediction.metadata)}


def _with_scores_to_plain(prediction: TaskPrediction, scores: Scores) -> list[dict[str, Any]]:
    plain = {name: dataclasses.asdict(score) for name, score in scores.items()}
    return [prediction_to_plain(prediction), plain]


def _with_scores_of(
    prediction: Mapping[str, Any], scores: Mapping[str, Mapping[str, Any]]
) -> tuple[TaskPrediction, dict[str, Score]]:
    return TaskPrediction(**prediction), {name: Score(**s) for name, s in scores.items()}


def _plain(value: Any) -> Any:
    """Returns a value as JSON gives it back, without what JSON cannot hold, such as masks."""
    if isinstance(value, Mapping):
        kept = {str(name): _plain(entry) for name, entry in value.items()}
        return {name: entry for name, entry in kept.items() if entry is not _UNSAVED}
    if isinstance(value, list | tuple):
        entries = [_plain(entry) for entry in value]
        return _UNSAVED if any(entry is _UNSAVED for entry in entries) else entries
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, str | int | float) else _UNSAVED


_UNSAVED = object()


def _means_to_plain(means: Mapping[str, Mean]) -> dict[str, list[Any]]:
    return {name: [_number(mean.value), mean.count] for name, mean in means.items()}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _numbers(pair: Sequence[Any]) -> tuple[float, int]:
    value, count = pair
    return (math.nan if value is None else float(value)), int(count)


def write_json(path: Path, content: Any) -> None:
    """Write a file that can also be read by eye."""
    path.write_text(json_text(content), encoding="utf-8")


def json_text(content: Any) -> str:
    """Returns the text of a file that can also be read by eye."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
