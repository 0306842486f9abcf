"""LongVideoBench: videos of eight seconds to an hour, some of its questions on subtitles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stts_jax.data.datasets.base import Dataset, SourceExample, Subtitles, register
from stts_jax.data.datasets.benchmarks.questions import (
    ANSWER_WITH_LETTER,
    STYLE,
    STYLE_WITH_SUBTITLE,
    asked,
    joined,
    letter,
    lettered,
)
from stts_jax.data.datasets.reading import Row, read_json, read_json_rows

FILES = {"validation": "lvb_val.json", "test": "lvb_test_wo_gt.json"}
COLUMNS = (
    "id",
    "video_id",
    "video_path",
    "question",
    "candidates",
    "level",
    "question_category",
    "duration_group",
)


@register("long_video_bench", "long_video_bench_no_subtitle")
class LongVideoBench(Dataset):
    """Multiple choice of up to five, shown without subtitles.

    Questions that mention subtitles are asked all the same, under both names
    (docs/reference.md#benchmarks).

    Source: docs/reference.md#benchmarks.
    """

    splits = ("validation", "test")
    home = (
        "https://huggingface.co/datasets/longvideobench/LongVideoBench (accept its licence, and "
        "unpack videos.tar.part.* and subtitles.tar there)"
    )

    @property
    def _folder(self) -> Path:
        return self.root / "LongVideoBench"

    def read(self) -> Sequence[tuple[int, Row]]:
        """Number and record of each question."""
        return list(enumerate(read_json_rows(self._folder / FILES[self.split], COLUMNS)))

    def example(self, record: tuple[int, Row], rng: np.random.RandomState) -> SourceExample:
        """The example of a question."""
        number, row = record
        index = row.get("correct_choice")
        metadata = {
            "example_id": f"{row['video_id']}_{row['id']}_{number}",
            "question_id": row["id"],
            "video_id": row["video_id"],
            "level": row["level"],
            "options": row["candidates"],
            "question_category": row["question_category"],
            "duration_group": row["duration_group"],
        }
        subtitle = self.subtitle(row)
        return asked(
            self._folder / "videos" / row["video_path"],
            joined(row["question"], lettered(row["candidates"]), ANSWER_WITH_LETTER),
            None if index is None else letter(index),
            metadata,
            style=STYLE if subtitle is None else STYLE_WITH_SUBTITLE,
            subtitle=subtitle,
        )

    def subtitle(self, row: Row) -> Subtitles | None:
        """Returns the subtitles that are shown with the video of a question."""
        return None


@register("long_video_bench_w_subtitle")
class LongVideoBenchWithSubtitle(LongVideoBench):
    """The same with subtitles, whose style it has also where there are none."""

    def subtitle(self, row: Row) -> Subtitles | None:
        """The lines during the video, in seconds from its start."""
        lines = read_json(self._folder / "subtitles" / row["subtitle_path"])
        return within_video(lines, row["starting_timestamp_for_subtitles"], row["duration"])


@register("long_video_bench_without_subtitle_questions")
class LongVideoBenchWithoutSubtitleQuestions(LongVideoBench):
    """Only the questions that can be answered without subtitles.

    A question is left out if it or one of its options mentions a subtitle. Early versions of the
    reference had this set under the name `long_video_bench_no_subtitle`.
    """

    def read(self) -> Sequence[tuple[int, Row]]:
        """Number, among all, and record of each question."""
        return [
            (number, row)
            for number, row in super().read()
            if "subtitle" not in "\n".join([row["question"], *map(str, row["candidates"])])
        ]


def within_video(lines: Sequence[dict[str, Any]], begin: float, duration: float) -> Subtitles:
    """Subtitle lines of a video that is an excerpt of what they were written for.

    As in the reference, a line's end that is not a fraction (none, or a whole number) counts as
    `duration`, lines that only touch the excerpt are kept, a start is cut at 0 and an end is not
    cut, and of lines with equal times the last one stays.

    Args:
      lines: in either published form: `timestamp` (two seconds) and `text`, or `start` and `end`
        ("hh:mm:ss.sss") and `line`.
      begin: second at which the excerpt begins.
      duration: of the excerpt, seconds.

    Returns:
      Text by start and end in seconds from the beginning of the excerpt.
    """
    shown = {}
    for line in lines:
        start, end, text = _line(line, duration)
        if end >= begin and start <= begin + duration:
            shown[(max(start - begin, 0.0), end - begin)] = text
    return shown


def _line(line: dict[str, Any], duration: float) -> tuple[float, float, str]:
    if "timestamp" not in line:
        return clock_seconds(line["start"]), clock_seconds(line["end"]), line["line"]
    start, end = line["timestamp"]
    return start, end if isinstance(end, float) else duration, line["text"]


def clock_seconds(text: str) -> float:
    """Seconds of "hh:mm:ss.sss"."""
    hours, minutes, seconds = text.split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
