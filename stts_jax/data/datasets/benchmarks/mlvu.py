"""MLVU: nine tasks on videos of three minutes to two hours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stts_jax.data.datasets.base import Dataset, SourceExample, register
from stts_jax.data.datasets.benchmarks.questions import (
    ANSWER_WITH_LETTER,
    asked,
    joined,
    letter_of,
    lettered,
)
from stts_jax.data.datasets.reading import Row, read_json_rows

MULTIPLE_CHOICE = (
    "1_plotQA",
    "2_needle",
    "3_ego",
    "4_count",
    "5_order",
    "6_anomaly_reco",
    "7_topic_reasoning",
)
GENERATION = ("8_sub_scene", "9_summary")
HOME = (
    "https://huggingface.co/datasets/MLVU/MVLU (accept its licence; the folder is called MVLU, the "
    "one in it MLVU)"
)


@dataclass(frozen=True)
class Question:
    """A published question; `number` counts through the tasks, `row` is its record."""

    number: int
    task: str
    row: Row
    video: Path

    @property
    def metadata(self) -> dict[str, Any]:
        """Returns the metadata that all questions of the validation split have."""
        return {
            "example_id": str(self.number),
            "question_id": str(self.number),
            "video_id": self.row["video"],
            "task_type": self.task.partition("_")[2],
            "duration": self.row["duration"],
        }


def read_tasks(root: Path, tasks: Sequence[str], columns: Sequence[str]) -> list[Question]:
    """The validation questions of some tasks, those of short videos first."""
    folder = root / "MVLU" / "MLVU"
    rows = [
        (task, row)
        for task in tasks
        for row in read_json_rows(
            folder / "json" / f"{task}.json", ("video", "duration", "question", *columns)
        )
    ]
    questions = [
        Question(number, task, row, folder / "video" / task / row["video"])
        for number, (task, row) in enumerate(rows)
    ]
    return sorted(questions, key=lambda question: question.row["duration"])


# The reference's registry gives VideoEval-Pro for "mlvu" by mistake.
@register("mlvu_mc", "mlvu")
class MlvuMultipleChoice(Dataset):
    """The seven tasks of multiple choice.

    The answers of the test split are in its file `test-ground-truth/test_mcq_gt.json`.

    Source: docs/reference.md#benchmarks.
    """

    splits = ("validation", "test")
    home = f"{HOME}; the test split is https://huggingface.co/datasets/MLVU/MLVU_Test"

    def read(self) -> Sequence[Question]:
        """The questions, those of short videos first."""
        if self.split == "validation":
            return read_tasks(self.root, MULTIPLE_CHOICE, ("candidates", "answer"))
        folder = self.root / "MLVU_Test"
        columns = ("question_id", "video", "duration", "question", "candidates", "answer")
        rows = read_json_rows(folder / "test-ground-truth" / "test_mcq_gt.json", columns)
        nested = folder / "MLVU_Test" / "video"
        videos = nested if nested.is_dir() else folder / "video"
        questions = [Question(n, "", row, videos / row["video"]) for n, row in enumerate(rows)]
        return sorted(questions, key=lambda question: question.row["duration"])

    def example(self, record: Question, rng: np.random.RandomState) -> SourceExample:
        """The example of a question."""
        row, metadata = record.row, record.metadata
        if self.split == "test":
            del metadata["task_type"]
            metadata["question_id"] = metadata["example_id"] = str(row["question_id"])
        options, where = row["candidates"], f"MLVU, question {metadata['question_id']}"
        return asked(
            record.video,
            joined(row["question"], lettered(options), ANSWER_WITH_LETTER),
            letter_of(row["answer"], options, where),
            metadata,
        )


@register("mlvu_gen")
class MlvuGeneration(Dataset):
    """The two tasks of free answers, which a language model scores.

    Source: docs/reference.md#benchmarks.
    """

    splits = ("validation",)
    home = HOME

    def read(self) -> Sequence[Question]:
        """The questions, those of short videos first."""
        return read_tasks(self.root, GENERATION, ("answer",))

    def example(self, record: Question, rng: np.random.RandomState) -> SourceExample:
        """The example of a question."""
        row = record.row
        metadata = {**record.metadata, "question": row["question"]}
        if "scoring_points" in row:
            metadata["scoring_points"] = row["scoring_points"]
        return asked(record.video, row["question"], row["answer"], metadata, style="demo")
