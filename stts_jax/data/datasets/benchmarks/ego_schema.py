"""EgoSchema: three-minute first-person videos."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stts_jax.data.datasets.base import Dataset, SourceExample, register
from stts_jax.data.datasets.benchmarks.questions import ANSWER_WITH_LETTER, asked, joined, letter
from stts_jax.data.datasets.reading import Row, read_parquet, whole_number

COLUMNS = ("question_idx", "question", "video_idx", "option", "answer")
FOLDERS = {"validation": "Subset", "test": "MC"}


@register("ego_schema")
class EgoSchema(Dataset):
    """Multiple choice of five; the options are published with their letters.

    Validation is the subset with published answers.

    Source: docs/reference.md#benchmarks.
    """

    splits = ("validation", "test")
    home = "https://huggingface.co/datasets/lmms-lab/egoschema (unpack its zip files there)"

    def read(self) -> Sequence[tuple[int, Row]]:
        """Number and record of each question."""
        folder = self.root / "egoschema" / FOLDERS[self.split]
        return list(enumerate(read_parquet(folder / "test-00000-of-00001.parquet", COLUMNS)))

    def example(self, record: tuple[int, Row], rng: np.random.RandomState) -> SourceExample:
        """The example of a question."""
        number, row = record
        index = None if row["answer"] is None else whole_number(row["answer"])
        metadata = {
            "example_id": f"{row['question_idx']}_{row['video_idx']}_{number}",
            "question_id": row["question_idx"],
            "video_id": row["video_idx"],
            "options": list(row["option"]),
            "answer_idx": index,
        }
        return asked(
            self.root / "egoschema" / "videos" / f"{row['video_idx']}.mp4",
            joined(row["question"], row["option"], ANSWER_WITH_LETTER),
            None if index is None else letter(index),
            metadata,
        )
