"""LLaVA-Video-178K: the parts made from academic datasets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from stts_jax.data.datasets.academic.shared import (
    MULTIPLE_CHOICE,
    SHORT_ANSWER,
    Draft,
    Fixed,
    VideoDataset,
    VideoRecord,
)
from stts_jax.data.datasets.base import DatasetError, register
from stts_jax.data.datasets.looked_at import note
from stts_jax.data.datasets.reading import read_json


class LLaVAVideo(VideoDataset):
    """Conversations that were made from other datasets, taken word for word.

    Files: for each length and source, the first of `LLaVA-Video-178K/{folder}/{pattern}`, with
    `id`, `data_source`, `video` and `conversations`;
    `LLaVA-Video-178K/{data_source}/{video}`. A leading "<image>" line is removed from questions.
    Source: docs/reference.md#training-datasets; `LLaVAVideoAcademic`.
    """

    home = "huggingface.co/datasets/lmms-lab/LLaVA-Video-178K"
    folder = "LLaVA-Video-178K"

    style: ClassVar[str]
    answer_type: ClassVar[str]
    pattern: ClassVar[str]
    folders: ClassVar[tuple[str, ...]]

    def collect(self) -> Iterator[VideoRecord]:
        drafts: dict[tuple[str, str], list[Draft]] = {}
        prefixes: dict[tuple[str, str], str] = {}
        for folder in self.folders:
            for row in read_json(self._file(folder)):
                video = f"{row['data_source']}/{row['video']}"
                key = (video, f"{row['id']}_{row['data_source']}_{row['video']}_{self.answer_type}")
                drafts.setdefault(key, []).extend(self._drafts(row["conversations"]))
                prefixes[key] = f"{folder}/{self.pattern}"
        for (video, example_id), asked in drafts.items():
            metadata = {"example_id": example_id, "prefix": prefixes[video, example_id]}
            yield VideoRecord(f"{self.folder}/{video}", asked, metadata=metadata)

    def _file(self, folder: str) -> Path:
        note(self.file(folder))
        files = sorted(self.file(folder).glob(self.pattern))
        if not files:
            raise DatasetError(f"there is no file '{self.file(folder) / self.pattern}'")
        return files[0]

    def _drafts(self, turns: list[dict[str, str]]) -> Iterator[Draft]:
        for asked, answered in zip(turns[::2], turns[1::2], strict=True):
            question = asked["value"].removeprefix("<image>\n")
            yield Fixed(
                {"style": self.style, "question": question, "answer": answered["value"].strip()}
            )


@register("llava_video_mc_academic")
class LLaVAVideoMultipleChoice(LLaVAVideo):
    """Questions with options, which are in the question's text: there is no field for them."""

    style = MULTIPLE_CHOICE
    answer_type = "multi_choice"
    pattern = "*mc*.json"
    folders = (
        "0_30_s_perceptiontest",
        "0_30_s_nextqa",
        "30_60_s_perceptiontest",
        "30_60_s_nextqa",
        "1_2_m_nextqa",
        "2_3_m_nextqa",
    )


@register("llava_video_oe_academic")
class LLaVAVideoOpenEnded(LLaVAVideo):
    """Questions with a free answer."""

    style = SHORT_ANSWER
    answer_type = "open_ended"
    pattern = "*oe*.json"
    folders = (
        "0_30_s_activitynetqa",
        "0_30_s_nextqa",
        "30_60_s_activitynetqa",
        "30_60_s_nextqa",
        "1_2_m_activitynetqa",
        "1_2_m_nextqa",
        "2_3_m_activitynetqa",
        "2_3_m_nextqa",
    )
