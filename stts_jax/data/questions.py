"""A question of own data or of the procedural set, with the fields that score its answer."""

from __future__ import annotations

from dataclasses import dataclass

from stts_jax.data.datasets.base import DatasetError, SourceExample


@dataclass(frozen=True)
class Question:
    """One question and its answer, the text of an option if there are options.

    A caption is the answer to the empty question.
    """

    question: str
    answer: str
    options: tuple[str, ...] | None = None
    type: str | None = None
    id: str | None = None


def question_of(source: SourceExample) -> Question:
    """The question of an example that asks one thing; a caption answers the empty question.

    Raises:
      DatasetError: if it asks several, or has no answer to compare with, as examples to train on.
    """
    known = source.metadata
    if len(source.annotations) != 1 or not isinstance(known.get("answer"), str):
        raise DatasetError(
            f"example '{known.get('example_id', source.video)}' is not one question with the text "
            "of its answer; take own data, or a benchmark that has such questions"
        )
    options = known.get("options")
    return Question(
        known.get("question", ""),
        known["answer"],
        tuple(options) if options else None,
        known.get("type"),
        known.get("example_id"),
    )
