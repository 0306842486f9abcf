"""Accuracy of guessing: the most frequent answer of each type of question."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from stts_jax.data.questions import Question


def guessing_accuracy(train: Sequence[Question], test: Sequence[Question]) -> float:
    """Returns the accuracy on `test` of the most frequent answers in `train`.

    What an answer repeats of its question is known, so only the rest is guessed: for each type
    that which is most frequent, among the options where there are any.
    """
    counts: dict[str | None, Counter[str]] = defaultdict(Counter)
    for question in train:
        counts[question.type][value_of(question.question, question.answer)] += 1
    return sum(_guess(question, counts[question.type]) for question in test) / len(test)


def _guess(question: Question, counts: Counter[str]) -> bool:
    """Returns whether the most frequent value is right."""
    values = [value_of(question.question, option) for option in question.options or ()] or list(
        counts
    )
    best = max(values, key=lambda value: (counts[value], value))
    return best == value_of(question.question, question.answer)


def value_of(question: str, answer: str) -> str:
    """Returns an answer without the word that it repeats of its question."""
    first, _, rest = answer.partition(" ")
    return rest if rest and first in question.rstrip("?").split() else answer
