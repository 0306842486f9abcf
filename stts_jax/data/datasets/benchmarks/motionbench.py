"""MotionBench: fine motion in short videos."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stts_jax.data.datasets.base import Dataset, SourceExample, register
from stts_jax.data.datasets.benchmarks.questions import asked
from stts_jax.data.datasets.reading import Row, read_json_lines

NO_ANSWER = "NA"


@register("motionbench")
class MotionBench(Dataset):
    """Multiple choice; the options are in the question's text, no instruction is added.

    The answers of the test split are not published: they are "NA", and such questions are left out
    of the validation split.

    Source: docs/reference.md#benchmarks.
    """

    splits = ("validation", "test")
    home = "https://huggingface.co/datasets/zai-org/MotionBench (into the folder MotionBench)"

    @property
    def _folder(self) -> Path:
        return self.root / "MotionBench" / "MotionBench"

    def read(self) -> Sequence[tuple[Row, dict[str, Any]]]:
        """The record of a video and one of its questions."""
        path = self._folder / "video_info.meta.jsonl"
        return [
            (row, question)
            for row in read_json_lines(path, ("key", "video_path", "qa"))
            for question in row["qa"]
            if self.split == "test" or question["answer"] != NO_ANSWER
        ]

    def example(
        self, record: tuple[Row, dict[str, Any]], rng: np.random.RandomState
    ) -> SourceExample:
        """The example of a question."""
        row, question = record
        metadata = {
            "example_id": f"{question['uid']}_{row['key']}",
            "qa_uid": question["uid"],
            "video_info": row.get("video_info", {}),
            "task_type": row.get("question_type", ""),
            "video_type": row.get("video_type", ""),
        }
        video = self._video(row["video_path"])
        return asked(video, question["question"], question["answer"], metadata)

    def _video(self, name: str) -> Path:
        own = self._folder / "self-collected" / name
        return own if own.is_file() else self._folder / "public-dataset" / name
