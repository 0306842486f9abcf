"""LVBench: videos of half an hour and more."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from stts_jax.data.datasets.base import Dataset, SourceExample, register
from stts_jax.data.datasets.benchmarks.questions import RESPOND_WITH_LETTER, asked, joined
from stts_jax.data.datasets.reading import Row, read_json_lines

# "(A) text", "A) text" or "A).", "A. text"; what follows is the option.
LABELS = (
    re.compile(r"\(([^)]{0,2})\)(.*)"),
    re.compile(r"([^\W_])(?:\) |\)\.)(.*)"),
    re.compile(r"([^\W_])\.(.*)"),
)
SHORTEST_LABELLED = 3  # characters


@register("lvbench")
class LvBench(Dataset):
    """Multiple choice; the options, published in several forms, are shown as `A. text`.

    Source: docs/reference.md#benchmarks.
    """

    splits = ("test",)
    home = (
        "https://huggingface.co/datasets/zai-org/LVBench (video_info.meta.jsonl, and how to get "
        "the videos, which belong beside it in the folder LVBench)"
    )

    def read(self) -> Sequence[tuple[Row, Row]]:
        """The record of a video and one of its questions."""
        rows = read_json_lines(
            self.root / "LVBench" / "video_info.meta.jsonl", ("key", "type", "qa")
        )
        return [(row, question) for row in rows for question in row["qa"]]

    def example(self, record: tuple[Row, Row], rng: np.random.RandomState) -> SourceExample:
        """The example of a question."""
        row, published = record
        question, options = split_question(published["question"])
        metadata = {
            "example_id": str(published["uid"]),
            "type": row["type"],
            "uid": published["uid"],
            "qtype": published["question_type"],
            "time_reference": published["time_reference"],
        }
        return asked(
            self.root / "LVBench" / f"{row['key']}.mp4",
            joined(question, [f"{label}. {text}" for label, text in options], RESPOND_WITH_LETTER),
            f"{published['answer']}.",
            metadata,
        )


def split_question(text: str) -> tuple[str, list[tuple[str, str]]]:
    """The question in the first line, and label and text of the options in the others.

    An option without a label, or of less than three characters, gets its number as one.
    """
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if not lines:
        return "", []
    return lines[0], [_option(number, line) for number, line in enumerate(lines[1:], start=1)]


def _option(number: int, line: str) -> tuple[str, str]:
    if len(line) >= SHORTEST_LABELLED:
        for pattern in LABELS:
            if found := pattern.fullmatch(line):
                return found[1], found[2].strip()
    return str(number), line
