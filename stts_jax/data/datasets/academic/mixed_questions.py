"""Datasets that ask both ways: with options, and for a short answer."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from stts_jax.data.datasets.academic.shared import (
    ByVideo,
    Choice,
    Draft,
    VideoDataset,
    VideoRecord,
    short_answer,
)
from stts_jax.data.datasets.base import DatasetError, register
from stts_jax.data.datasets.looked_at import is_file
from stts_jax.data.datasets.reading import list_files, read_csv, read_json, whole_number


@register("tgif")
class TGIF(VideoDataset):
    """Questions on short animations: what is done, how often, what comes next, what is shown.

    Files: `TGIF/{Train,Test}_{action,count,transition,frameqa}_question.csv`, separated by tabs;
    `TGIF/videos/{gif_name}.mp4`. Actions and transitions are asked with options and without.
    Source: docs/reference.md#training-datasets; `TGIF`.
    """

    splits = ("train", "test")
    home = "huggingface.co/datasets/allenai/Molmo2-TGIF"
    folder = "TGIF"

    WITH_OPTIONS = ("action", "transition")
    TASKS = ("action", "count", "transition", "frameqa")
    OPTIONS = tuple(f"a{number}" for number in range(1, 6))

    def collect(self) -> Iterator[VideoRecord]:
        by_video = ByVideo()
        for task in self.TASKS:
            path = self.file(f"{self.split.capitalize()}_{task}_question.csv")
            options = self.OPTIONS if task in self.WITH_OPTIONS else ()
            columns = ("gif_name", "question", "answer", *options)
            for row in read_csv(path, columns, delimiter="\t"):
                drafts = self._drafts(row, options)
                by_video.add(f"{self.folder}/videos/{row['gif_name']}.mp4", *drafts)
        return by_video.records()

    def _drafts(self, row: dict[str, str], names: tuple[str, ...]) -> list[Draft]:
        if not names:
            return [short_answer(row["question"], row["answer"])]
        options = [row[name] for name in names]
        choice = Choice(row["question"], options, whole_number(row["answer"]))
        return [choice, short_answer(row["question"], options[choice.answer_idx])]


@register("clevrer")
class CLEVRER(VideoDataset):
    """Questions on colliding objects; those with options that do not have one right are left out.

    Files: `CLEVRER/{train,validation}.json`;
    `CLEVRER/video_{thousand:05d}-{next thousand:05d}/{video_filename}`.
    Source: docs/reference.md#training-datasets; `CLEVRER`.
    """

    splits = ("train", "validation")
    home = "clevrer.csail.mit.edu"
    folder = "CLEVRER"

    def collect(self) -> Iterator[VideoRecord]:
        for row in read_json(self.file(f"{self.split}.json")):
            name = row["video_filename"]
            first = int(name.split(".")[0].removeprefix("video_")) // 1000 * 1000
            drafts = [draft for asked in row["questions"] for draft in self._drafts(asked)]
            if drafts:
                yield VideoRecord(
                    f"{self.folder}/video_{first:05d}-{first + 1000:05d}/{name}", drafts
                )

    def _drafts(self, asked: dict[str, Any]) -> Iterator[Draft]:
        if "answer" in asked:
            yield short_answer(asked["question"], asked["answer"])
        elif "choices" in asked:
            right = [
                number
                for number, choice in enumerate(asked["choices"])
                if choice["answer"] == "correct"
            ]
            if len(right) == 1:
                options = [choice["choice"] for choice in asked["choices"]]
                yield Choice(asked["question"], options, right[0])


@register("funqa")
class FunQA(VideoDataset):
    """Questions on humorous, creative and magic videos.

    Files: `FunQA/FunQA_{split}.json`, short answers, of which the tasks that ask for times are left
    out; `FunQA/Funqa_mcqa_v1.json`, the options of which are a Python list in the last line of the
    instruction and the answer counts from 1. Videos are in
    `FunQA/{split}/{split}_{humor,creative,magic}`, by their first letter; those absent, and answers
    that are none of the options, are left out. (The reference takes an answer of 0 as the last
    option.) Source: docs/reference.md#training-datasets; `FunQA`.
    """

    splits = ("train", "validation", "test")
    home = "huggingface.co/datasets/fesvhtr/FunQA"
    folder = "FunQA"

    TASKS_FOR_TIMES = ("H1", "C1", "M1", "C4", "C5")
    KINDS: ClassVar[Mapping[str, str]] = {"H": "humor", "C": "creative", "M": "magic"}

    def collect(self) -> Iterator[VideoRecord]:
        present = list_files(self.file(self.short_split), below=True)
        by_video = ByVideo()
        for row in read_json(self.file(f"FunQA_{self.short_split}.json")):
            video = self._video(row["task"], row["visual_input"])
            if row["task"] not in self.TASKS_FOR_TIMES and video in present:
                draft = short_answer(row["instruction"], row["output"])
                by_video.add(f"{self.folder}/{self.short_split}/{video}", draft)
        for row in read_json(self.file("Funqa_mcqa_v1.json")):
            if row["visual_input"][:1] not in self.KINDS:
                continue
            video = self._video(row["visual_input"], row["visual_input"])
            if video in present:
                drafts = self._choice(row["instruction"], row["gt"])
                by_video.add(f"{self.folder}/{self.short_split}/{video}", *drafts)
        return by_video.records()

    def _video(self, kind: str, name: str) -> str:
        if kind[:1] not in self.KINDS:
            raise DatasetError(f"'{kind}' is not one of the tasks {', '.join(self.KINDS)}")
        return f"{self.short_split}_{self.KINDS[kind[:1]]}/{name}"

    def _choice(self, instruction: str, right: Any) -> Iterator[Choice]:
        *_, question, options = instruction.split("\n")
        texts = [
            text.replace(f"Options {number}: ", "").strip()
            for number, text in enumerate(
                ast.literal_eval(options.replace(" The Options are: ", "")), start=1
            )
        ]
        try:
            number = int(right)
        except (TypeError, ValueError):
            return
        if 1 <= number <= len(texts):
            question = question.replace("The Question is:", "").strip()
            yield Choice(question, texts, number - 1)


@register("star")
class STAR(VideoDataset):
    """Questions on clips of everyday actions, each asked without options and with them.

    Files: `STAR/STAR_{split}_qa.json`, or else the larger `STAR_{split}.json`;
    `Charades/Charades_v1/{video_id}.mp4`. An example has ten annotations at most.
    Source: docs/reference.md#training-datasets; `STAR`.
    """

    splits = ("train", "validation")
    home = "bobbywu.com/STAR"
    folder = "STAR"

    ANNOTATIONS_AT_MOST = 10

    def collect(self) -> Iterator[VideoRecord]:
        path = self.file(f"STAR_{self.short_split}_qa.json")
        if not is_file(path):
            path = self.file(f"STAR_{self.short_split}.json")
        by_video = ByVideo()
        for row in read_json(path):
            drafts: list[Draft] = [short_answer(row["question"], row["answer"])]
            options = [choice["choice"] for choice in row["choices"]]
            if row["answer"] in options:
                last = len(options) - 1 - options[::-1].index(row["answer"])
                drafts.append(Choice(row["question"], options, last))
            by_video.add(
                f"Charades/Charades_v1/{row['video_id']}.mp4",
                *drafts,
                clip=(float(row["start"]), float(row["end"])),
            )
        return by_video.records(at_most=self.ANNOTATIONS_AT_MOST)


@register("intent_qa")
class IntentQA(VideoDataset):
    """Questions on intent, each asked without options and with them.

    Files: `IntentQA/{split}.csv`; `IntentQA/videos/{video_id}.mp4`. Rows whose answer is none of
    the options are left out. Source: docs/reference.md#training-datasets; `IntentQA`.
    """

    splits = ("train", "validation", "test")
    home = "github.com/JoseponLee/IntentQA"
    folder = "IntentQA"

    OPTIONS = tuple(f"a{number}" for number in range(5))

    def collect(self) -> Iterator[VideoRecord]:
        by_video = ByVideo()
        path = self.file(f"{self.short_split}.csv")
        for row in read_csv(path, ("video_id", "question", "answer", *self.OPTIONS)):
            options, answer = [row[name] for name in self.OPTIONS], whole_number(row["answer"])
            if answer < len(options):
                by_video.add(
                    f"{self.folder}/videos/{row['video_id']}.mp4",
                    short_answer(row["question"], options[answer]),
                    Choice(row["question"], options, answer),
                )
        return by_video.records()
