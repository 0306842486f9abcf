"""Video-MME: videos of eleven seconds to an hour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stts_jax.data.datasets.base import Dataset, SourceExample, Subtitles, register
from stts_jax.data.datasets.benchmarks.questions import STYLE, STYLE_WITH_SUBTITLE, asked, joined
from stts_jax.data.datasets.reading import Row, read_json, read_parquet

INSTRUCTION = (
    "Select the best answer to the following multiple-choice question based on the video. "
    "Respond with only the letter (A, B, C, or D) of the correct option."
)
CLOSING = "The best answer is:"
METADATA = ("video_id", "question_id", "duration", "domain", "sub_category", "task_type")
COLUMNS = (*METADATA, "videoID", "question", "options", "answer")


@register("video_mme")
class VideoMme(Dataset):
    """Multiple choice of four; the options are published with their letters.

    Source: docs/reference.md#benchmarks.
    """

    splits = ("validation",)
    home = (
        "https://huggingface.co/datasets/lmms-lab/Video-MME (unpack its zip files there, into the "
        "folder Video-MME)"
    )

    def read(self) -> Sequence[tuple[int, Row]]:
        """Number and record of each question."""
        folder = self.root / "Video-MME" / "videomme"
        return list(enumerate(read_parquet(folder / "test-00000-of-00001.parquet", COLUMNS)))

    def example(self, record: tuple[int, Row], rng: np.random.RandomState) -> SourceExample:
        """The example of a question."""
        number, row = record
        subtitle = self.subtitle(row["videoID"])
        identity = f"{row['question_id']}_{row['video_id']}_{number}"
        return asked(
            self.root / "Video-MME" / "data" / f"{row['videoID']}.mp4",
            "\n".join([INSTRUCTION, joined(row["question"], row["options"], CLOSING)]),
            row["answer"],
            {"example_id": identity, **{name: row[name] for name in METADATA}},
            style=STYLE if subtitle is None else STYLE_WITH_SUBTITLE,
            subtitle=subtitle,
        )

    def subtitle(self, video: str) -> Subtitles | None:
        """Returns the subtitles that are shown with a video."""
        return None


@register("video_mme_w_subtitle")
class VideoMmeWithSubtitle(VideoMme):
    """The same with subtitles, where a video has them."""

    home = (
        f"{VideoMme.home}; the subtitles are subtitles.json of "
        "https://huggingface.co/datasets/allenai/Molmo2-VideoMME"
    )

    def read(self) -> Sequence[tuple[int, Row]]:
        """Number and record of each question."""
        self._subtitles: Mapping[str, Mapping[str, Any]] = read_json(
            self.root / "Video-MME" / "subtitles.json"
        )
        return super().read()

    def subtitle(self, video: str) -> Subtitles | None:
        """The video's lines, None if it has none."""
        if video not in self._subtitles:
            return None
        lines = self._subtitles[video].values()
        return {(line["start"], line["end"]): line["text"] for line in lines}
