"""Datasets that are trained on in one split and evaluated on in the others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stts_jax.data.datasets.academic.shared import (
    EVALUATED_MULTIPLE_CHOICE,
    LETTERS,
    ByVideo,
    Choice,
    Fixed,
    VideoDataset,
    VideoRecord,
    lettered,
)
from stts_jax.data.datasets.base import register
from stts_jax.data.datasets.reading import read_csv, read_json, read_parquet, whole_number


@register("perception_test")
class PerceptionTest(VideoDataset):
    """Questions on memory, abstraction, physics and semantics.

    Files: `perception_test/all_train.json`, the list `mc_question` of each video, with
    `train_videos/{video}.mp4`; `mc_question_val/validation-00000-of-00001.parquet` with `videos`;
    `Test/mc_question/test-00000-of-00001.parquet` with `Test/videos`, without answers.
    Questions of validation and test print their options and ask for a letter.
    Source: docs/reference.md#training-datasets and #benchmarks; `PerceptionTest`.
    """

    splits = ("train", "validation", "test")
    home = "github.com/google-deepmind/perception_test"
    folder = "perception_test"

    def collect(self) -> Iterator[VideoRecord]:
        return self._train() if self.split == "train" else self._evaluated()

    def _train(self) -> Iterator[VideoRecord]:
        for video, asked_of in read_json(self.file("all_train.json")).items():
            drafts = [
                Choice(asked["question"], asked["options"], whole_number(asked["answer_id"]))
                for asked in asked_of["mc_question"]
            ]
            if drafts:
                yield VideoRecord(f"{self.folder}/train_videos/{video}.mp4", drafts)

    def _evaluated(self) -> Iterator[VideoRecord]:
        columns = ["question_id", "video_name", "question", "options"]
        if self.split == "validation":
            table, videos = "mc_question_val/validation-00000-of-00001.parquet", "videos"
            columns += ["answer_id", "area", "reasoning"]
        else:
            table, videos = "Test/mc_question/test-00000-of-00001.parquet", "Test/videos"
        for row in read_parquet(self.file(table), columns):
            options = list(row["options"])
            metadata: dict[str, Any] = {
                "example_id": f"{row['video_name']}_{row['question_id']}",
                "question_id": row["question_id"],
                "video_id": row["video_name"],
                "options": options,
            }
            answer = None
            if self.split == "validation":
                answer_idx = whole_number(row["answer_id"])
                answer = LETTERS[answer_idx]
                metadata |= {"answer_idx": answer_idx, "answer": answer}
                metadata |= {"area": row["area"], "reasoning": row["reasoning"]}
            yield VideoRecord(
                f"{self.folder}/{videos}/{row['video_name']}.mp4",
                [evaluated(lettered(row["question"], options), answer)],
                metadata=metadata,
            )


@register("nextqa_mc")
class NeXTQA(VideoDataset):
    """Questions on causes and order of actions, five options each.

    Files: `NeXTQA/{train,val}.csv` with `map_vid_vidorID.json`, which names the videos in
    `NExTVideo-all-videos`; `MC/test-00000-of-00001.parquet` with `NExTVideo/{video}.mp4`.
    Questions of the test split print their options and ask for a letter.
    Source: docs/reference.md#training-datasets and #benchmarks; `NeXTQA`.
    """

    splits = ("train", "validation", "test")
    home = "github.com/doc-doc/NExT-QA"
    folder = "NeXTQA"

    OPTIONS = tuple(f"a{number}" for number in range(5))

    def collect(self) -> Iterator[VideoRecord]:
        return self._test() if self.split == "test" else self._train()

    def _train(self) -> Iterator[VideoRecord]:
        videos = read_json(self.file("map_vid_vidorID.json"))
        by_video = ByVideo()
        for row in read_csv(
            self.file(f"{self.short_split}.csv"),
            ("video", "question", "answer", *self.OPTIONS),
        ):
            options = [row[option] for option in self.OPTIONS]
            draft = Choice(row["question"], options, whole_number(row["answer"]))
            by_video.add(
                f"{self.folder}/NExTVideo-all-videos/{videos[row['video']]}.mp4",
                draft,
            )
        return by_video.records()

    def _test(self) -> Iterator[VideoRecord]:
        path = self.file("MC/test-00000-of-00001.parquet")
        columns = ("video", "question", "answer", "type", *self.OPTIONS)
        for number, row in enumerate(read_parquet(path, columns)):
            options = [str(row[option]).strip() for option in self.OPTIONS]
            answer = LETTERS[whole_number(row["answer"])]
            question = lettered(row["question"].strip(), options)
            yield VideoRecord(
                f"{self.folder}/NExTVideo/{row['video']}.mp4",
                [evaluated(question, answer)],
                metadata={
                    "example_id": f"{row['video']}_{number}_type_{row['type']}",
                    "question_id": str(number),
                    "question_type": row["type"],
                    "video_id": str(row["video"]),
                    "options": options,
                    "answer": answer,
                },
            )


def evaluated(question: str, answer: str | None) -> Fixed:
    """A question as it is asked in an evaluation; the answer is a letter, None if not published."""
    annotation = {"style": EVALUATED_MULTIPLE_CHOICE, "question": question}
    return Fixed(annotation if answer is None else {**annotation, "answer": answer})
