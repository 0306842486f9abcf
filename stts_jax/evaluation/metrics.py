"""Whether an answer is right, and shares of right answers."""

from __future__ import annotations

import re
import string
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from stts_jax.data.questions import Question


@dataclass(frozen=True)
class Prediction:
    """What the model said to a question."""

    question: Question
    video: str
    answer: str

    @property
    def correct(self) -> bool:
        """Same text as the expected answer, case, articles and punctuation aside."""
        return normalized(self.answer) == normalized(self.question.answer)

    @property
    def type(self) -> str:
        """The question's type; questions without one are of type `all`."""
        return self.question.type or "all"


def normalized(text: str) -> str:
    """Lower case, without punctuation, articles and superfluous spaces."""
    text = text.lower().translate(str.maketrans("", "", string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def accuracy(predictions: Iterable[Prediction]) -> float:
    """Share of right answers, 0 to 1; 0 if there are none."""
    marks = [prediction.correct for prediction in predictions]
    return sum(marks) / len(marks) if marks else 0.0


def accuracy_by_type(predictions: Iterable[Prediction]) -> dict[str, float]:
    """`accuracy` of each type of question, by name."""
    groups: dict[str, list[Prediction]] = defaultdict(list)
    for prediction in predictions:
        groups[prediction.type].append(prediction)
    return {name: accuracy(groups[name]) for name in sorted(groups)}
