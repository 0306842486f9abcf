"""MLVU's open tasks, which only a judge can score: a scene in it, and a summary of the video.

Each answer gets two marks from 1 to 5. As with TempCompass the instructions are worded here, so
marks are not comparable with published ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from stts_jax.evaluation.scoring.judge import Judge
from stts_jax.evaluation.scoring.score import Mean, Metadata, Metric, Score

MARKS = {"sub_scene": ("accuracy", "relevance"), "summary": ("completeness", "reliability")}
TOTAL = "mlvu_gen_total"

_MEANING = {
    "accuracy": "how far it meets the scoring points, on average over them",
    "relevance": "how far it keeps to the question, be it right or wrong, and is sure of itself",
    "completeness": "how far it covers the main points of the standard answer",
    "reliability": "how free it is of errors and of contradictions to the standard answer",
}


def instructions(task: str) -> str:
    """Returns the instructions of a task's judge."""
    marks = MARKS[task]
    meanings = "; ".join(f"{mark} is {_MEANING[mark]}" for mark in marks)
    form = ", ".join(f'"score_{mark}": N' for mark in marks)
    return (
        f"You mark an answer about a video, from 1 (not at all) to 5 (fully) for each of: "
        f"{meanings}. Give your reasons briefly and end with the marks as {{{form}}}."
    )


def mlvu_generation(judge: Judge | None = None) -> Metric:
    """Marks of MLVU's open tasks; without a judge no question is judged.

    Metadata: `task_type` (sub_scene or summary), `question` and `scoring_points` for a scene,
    `answer` for a summary. A mark that the judge leaves out is 0 by the published rule.

    Source: docs/reference.md#metrics, the reference's `MLVUGenEval`.
    """

    def score(
        answer: str, metadata: Metadata, generator: np.random.RandomState
    ) -> Mapping[str, Score]:
        task = metadata["task_type"]
        names = [f"{task}_{mark}" for mark in MARKS[task]]
        request = _request(task, answer.strip(), metadata)
        if judge is None:
            return dict.fromkeys(names, Score(None, None))
        opinion = judge(instructions(task), request)
        marks = (mark_in(opinion, mark) for mark in MARKS[task])
        return {n: Score(m or 0.0, m) for n, m in zip(names, marks, strict=True)}

    groups = tuple(f"{task}_{mark}" for task, marks in MARKS.items() for mark in marks)
    return Metric("mlvu_gen", score, TOTAL, groups, derived=_total)


def mark_in(opinion: str, mark: str) -> float | None:
    """The number after `score_MARK` in the judge's text."""
    found = re.search(rf"score_{mark}['\"]?\s*:\s*(\d+(?:\.\d+)?)", opinion)
    return float(found[1]) if found else None


def _request(task: str, answer: str, metadata: Metadata) -> str:
    if task == "sub_scene":
        question = metadata["question"].replace("\n", "")
        given = f"Question: {question}\nScoring points: {metadata['scoring_points']}"
    else:
        given = f"Standard answer: {metadata['answer']}"
    return f"{given}\nAnswer to mark: {answer}"


def _total(means: Mapping[str, Mean]) -> Mapping[str, Mean]:
    """The mean over the tasks of the sum of a task's two marks."""
    sums = [sum(means[f"{t}_{m}"].value for m in marks) for t, marks in MARKS.items()]
    count = sum(means[f"{t}_{marks[0]}"].count for t, marks in MARKS.items())
    return {TOTAL: Mean(float(np.mean(sums)), count)}
