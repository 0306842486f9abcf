"""TempCompass: temporal aspects, asked in four ways."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from stts_jax.data.datasets.base import Annotation, Dataset, SourceExample, register
from stts_jax.data.datasets.benchmarks.questions import STYLE, lettered
from stts_jax.data.datasets.reading import read_json

# Below the question. Source: the inference script that TempCompass publishes.
INSTRUCTIONS = {
    "multi-choice": "\nPlease directly give the best option:",
    "yes_no": "\nPlease answer yes or no:",
    "captioning": "",  # the question ends with "Generated Caption:"
}
STYLES = {"multi-choice": STYLE, "yes_no": "video_eval_short_answer", "captioning": "demo"}
CAPTION_MATCHING = "caption_matching"


@dataclass(frozen=True)
class Question:
    """A published question.

    Attributes:
      task: one of the four.
      number: within the task.
      video: name of the file without its end.
      aspect: action, attribute_change, direction, order or speed.
      values: `question` and `answer` as they are published.
      multiple_choice: the question that a caption is judged with.
    """

    task: str
    number: int
    video: str
    aspect: str
    values: dict[str, str]
    multiple_choice: dict[str, str] | None = None


@register("temp_compass_internal")
class TempCompassInternal(Dataset):
    """The three tasks that are scored by rules: multiple choice, yes or no, caption matching.

    The released reference has the metric (docs/reference.md#metrics) but no class for the data, so
    this is built on
    assumptions:

    - The layout is the published one: `TempCompass/questions/{task}.json`, a question being below
      its video and its temporal aspect, and `TempCompass/videos/{video}.mp4`.
    - The instruction below the question is that of TempCompass's own inference script.
    - The metric scores caption matching like multiple choice, by the letter. So its options
      ("Option 1: ...", "Caption A: ...") lose their names and are shown as any options are in
      evaluation (docs/reference.md#multiple-choice), and the answer in the metadata is "B. text".
      A question whose answer
      is none of its options is left out.
    - A yes-or-no question has the style of short answers.
    """

    splits = ("validation",)
    home = (
        "https://github.com/llyx97/TempCompass (folder questions) and "
        "https://huggingface.co/datasets/lmms-lab/TempCompass (videos), into the folder TempCompass"
    )
    tasks: ClassVar[tuple[str, ...]] = ("multi-choice", "yes_no", CAPTION_MATCHING)

    def read(self) -> Sequence[Question]:
        """The questions, task by task."""
        return [question for task in self.tasks for question in self._read_task(task)]

    def _read_task(self, task: str) -> Iterator[Question]:
        judges = self._published("multi-choice") if task == "captioning" else {}
        number = 0
        for video, aspects in self._published(task).items():
            for aspect, questions in aspects.items():
                judge = judges.get(video, {}).get(aspect, [None])[0]
                for values in questions:
                    if task != CAPTION_MATCHING or values["answer"] in _captions(values):
                        yield Question(task, number, video, aspect, values, judge)
                    number += 1

    def _published(self, task: str) -> dict[str, dict[str, list[dict[str, str]]]]:
        return read_json(self.root / "TempCompass" / "questions" / f"{task}.json")

    def example(self, record: Question, rng: np.random.RandomState) -> SourceExample:
        """The example of a question."""
        annotation, asked = _asked(record)
        metadata = {
            "example_id": f"{record.video}_{record.task}_{record.number}",
            "video_id": record.video,
            "task": record.task,
            "temporal_aspect": record.aspect,
            "question": record.values["question"],
            **asked,
        }
        if record.multiple_choice:
            metadata["mc_question"] = record.multiple_choice["question"]
            metadata["mc_answer"] = record.multiple_choice["answer"]
        video = self.root / "TempCompass" / "videos" / f"{record.video}.mp4"
        return SourceExample((annotation,), video=video, metadata=metadata)


@register("temp_compass")
class TempCompass(TempCompassInternal):
    """All four tasks; captions are scored by a language model.

    It judges them with the first multiple-choice question on the same video and aspect, as in
    TempCompass's own script.
    """

    tasks = ("multi-choice", "yes_no", CAPTION_MATCHING, "captioning")


def _asked(record: Question) -> tuple[Annotation, dict[str, Any]]:
    """The annotation of a question, and the metadata that its answer is judged with."""
    values = record.values
    if record.task == CAPTION_MATCHING:
        captions = _captions(values)
        options = [caption.partition(":")[2].strip() for caption in captions]
        index = captions.index(values["answer"])
        question = values["question"].split("\n")[0]
        choice = {"options": options, "answer_idx": index}
        annotation = {"style": STYLE, "question": question, **choice}
        return annotation, {"answer": lettered(options)[index], **choice}
    question = values["question"] + INSTRUCTIONS[record.task]
    answer = {"answer": values["answer"]}
    return {"style": STYLES[record.task], "question": question, **answer}, answer


def _captions(values: dict[str, str]) -> list[str]:
    """The options of a caption-matching question with their names."""
    return values["question"].split("\n")[1:]
