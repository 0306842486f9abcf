"""How far one gets without looking: the most frequent answer of each type of question."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from stts_jax.data.examples import Example, Question


def guessing_accuracy(train: Sequence[Example], test: Sequence[Example]) -> float:
    """Share of `test` that is right if each type's most frequent answer in `train` is given."""
    answers: dict[str | None, Counter[str]] = defaultdict(Counter)
    for question in _questions(train):
        answers[question.type][question.answer] += 1
    best = {kind: counts.most_common(1)[0][0] for kind, counts in answers.items()}
    asked = _questions(test)
    return sum(best.get(q.type) == q.answer for q in asked) / len(asked)


def _questions(examples: Sequence[Example]) -> list[Question]:
    return [question for example in examples for question in example.questions]
