"""MVBench: twenty tasks on short videos."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stts_jax.data.datasets.base import Dataset, SourceExample, register
from stts_jax.data.datasets.benchmarks.questions import (
    RESPOND_WITH_LETTER,
    asked,
    joined,
    letter_of,
    lettered,
)
from stts_jax.data.datasets.reading import Row, read_json_rows

EPISODIC_REASONING = "Episodic Reasoning"
# Task to its folder of videos; the file of its questions has the same name in lower case.
VIDEO_FOLDERS = {
    "Action Sequence": "star/Charades_v1_480",
    "Action Prediction": "star/Charades_v1_480",
    "Action Antonym": "ssv2_video",
    "Fine-grained Action": "Moments_in_Time_Raw/videos",
    "Unexpected Action": "FunQA_test/test",
    "Object Existence": "clevrer/video_validation",
    "Object Interaction": "star/Charades_v1_480",
    "Object Shuffle": "perception/videos",
    "Moving Direction": "clevrer/video_validation",
    "Action Localization": "sta/sta_video",
    "Scene Transition": "scene_qa/video",
    "Action Count": "perception/videos",
    "Moving Count": "clevrer/video_validation",
    "Moving Attribute": "clevrer/video_validation",
    "State Change": "perception/videos",
    "Fine-grained Pose": "nturgbd",
    "Character Order": "perception/videos",
    "Egocentric Navigation": "vlnqa",
    EPISODIC_REASONING: "tvqa/frames_fps3_hq",
    "Counterfactual Inference": "clevrer/video_validation",
}


@register("mvbench")
class MvBench(Dataset):
    """Multiple choice; five tasks show a part of the video only.

    Episodic Reasoning is published as folders of pictures. A file `video.mp4` is expected in each,
    as `mvbench_clips` makes it.

    Source: docs/reference.md#benchmarks.
    """

    splits = ("validation",)
    home = (
        "https://huggingface.co/datasets/OpenGVLab/MVBench (unpack video/*.zip there, move what is "
        "in video/data0613 one folder up, ask for the NTU RGB+D videos as its page says, and run "
        "python -m stts_jax.data.datasets.benchmarks.mvbench_clips)"
    )

    def read(self) -> Sequence[tuple[str, int, Row]]:
        """Task, number within the task, and record."""
        columns = ("video", "question", "candidates", "answer")
        return [
            (task, number, row)
            for task in VIDEO_FOLDERS
            for number, row in enumerate(read_json_rows(self._questions(task), columns))
        ]

    def _questions(self, task: str) -> Path:
        name = task.lower().replace(" ", "_").replace("-", "_")
        return self.root / "MVBench" / "json" / f"{name}.json"

    def example(self, record: tuple[str, int, Row], rng: np.random.RandomState) -> SourceExample:
        """The example of a question."""
        task, number, row = record
        options = row["candidates"]
        where = f"MVBench, {task}, question {number}"
        video = self.root / "MVBench" / "video" / VIDEO_FOLDERS[task] / row["video"]
        if task == EPISODIC_REASONING:
            video /= "video.mp4"
        start, end = row.get("start"), row.get("end")
        return asked(
            video,
            joined(row["question"], lettered(options), RESPOND_WITH_LETTER),
            f"{letter_of(row['answer'], options, where)}.",
            {"example_id": f"{task}_{number}", "task_type": task},
            clip=None if start is None or end is None else (float(start), float(end)),
        )
