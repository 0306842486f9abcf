"""TOMATO: temporal reasoning on short videos."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stts_jax.data.datasets.base import Dataset, SourceExample, register
from stts_jax.data.datasets.benchmarks.questions import letter
from stts_jax.data.datasets.reading import Row, read_json, whole_number

REASONING_TYPES = (
    "count",
    "direction",
    "rotation",
    "shape&trend",
    "velocity&frequency",
    "visual_cues",
)


@register("tomato")
class Tomato(Dataset):
    """Multiple choice, formatted as any is in evaluation (docs/reference.md#multiple-choice).

    Its metric compares the answer with the letters, which are in the metadata as `option_names`.
    The reference notes that one video (object/0390-01) hangs a decoder which is not used here.

    Source: docs/reference.md#benchmarks.
    """

    splits = ("test",)
    home = "https://github.com/yale-nlp/TOMATO (folder data, and the link to its videos)"

    def read(self) -> Sequence[tuple[str, str, Row]]:
        """Reasoning type, id and record of each question."""
        return [
            (kind, identity, row)
            for kind in REASONING_TYPES
            for identity, row in read_json(self.root / "TOMATO" / "data" / f"{kind}.json").items()
        ]

    def example(self, record: tuple[str, str, Row], rng: np.random.RandomState) -> SourceExample:
        """The example of a question."""
        kind, identity, row = record
        choice = {"options": list(row["options"]), "answer_idx": whole_number(row["answer"])}
        metadata = {
            "example_id": identity,
            "key": row["key"],
            "reasoning_type": kind,
            "demonstration_type": row["demonstration_type"],
            "motion_type": row["motion_type"],
            "option_names": "".join(letter(index) for index in range(len(row["options"]))),
            **choice,
        }
        folder = self.root / "TOMATO" / "videos" / row["demonstration_type"]
        annotation = {"style": "video_multiple_choice", "question": row["question"], **choice}
        return SourceExample((annotation,), video=folder / f"{row['key']}.mp4", metadata=metadata)
