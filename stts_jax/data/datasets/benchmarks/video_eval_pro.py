"""VideoEval-Pro: long videos, questions gathered from other benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stts_jax.data.datasets.base import Dataset, SourceExample, register
from stts_jax.data.datasets.benchmarks.questions import RESPOND_WITH_LETTER, asked, joined
from stts_jax.data.datasets.reading import Row, read_parquet

METADATA = ("answer_text", "source", "qa_subtype", "qa_type", "options")
COLUMNS = ("video", "question", "answer", *METADATA)


@register("video_eval_pro_mc")
class VideoEvalProMultipleChoice(Dataset):
    """Multiple choice; the options are published with their letters.

    Source: docs/reference.md#benchmarks.
    """

    splits = ("test",)
    home = (
        "https://huggingface.co/datasets/TIGER-Lab/VideoEval-Pro (into the folder VideoEvalPro; in "
        "videos: cat videos_part_*.tar.gz | tar -xzf -)"
    )

    @property
    def _folder(self) -> Path:
        return self.root / "VideoEvalPro"

    def read(self) -> Sequence[tuple[int, Row]]:
        """Number and record of each question."""
        path = self._folder / "data" / "test-00000-of-00001.parquet"
        return list(enumerate(read_parquet(path, COLUMNS)))

    def example(self, record: tuple[int, Row], rng: np.random.RandomState) -> SourceExample:
        """The example of a question."""
        number, row = record
        nested = self._folder / "videos"
        videos = nested if nested.is_dir() else self._folder
        return asked(
            videos / "videos_filtered" / row["video"],
            joined(row["question"], row["options"], RESPOND_WITH_LETTER),
            row["answer"],
            {
                "example_id": f"{number}_{row['video']}",
                **{name: row[name] for name in METADATA},
            },
        )
