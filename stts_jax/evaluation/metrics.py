"""Scores answers: right or wrong, similarity of free texts, and their means.

Each answer is scored by one rule: with options, by the option that it names; a short answer, by
being the same; a caption or a long answer, by ROUGE-L, which is no part of the accuracy.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property

from stts_jax.data.questions import Question
from stts_jax.evaluation.scoring.own_choice import chosen_option
from stts_jax.evaluation.scoring.rouge import rouge_l, word_count
from stts_jax.evaluation.scoring.words import same_answer

BY_OPTION, BY_EXACT_ANSWER, BY_TEXT = "option", "exact answer", "ROUGE-L"
# An expected answer of more words is a free text: hardly any right one has the same words.
LONGEST_SHORT_ANSWER = 5
UNTYPED = "untyped"


@dataclass(frozen=True)
class Prediction:
    """The model's answer to a question.

    Attributes:
      question: with the answer that is expected.
      video: that it was about.
      answer: the model's.
      labels: of the options in the prompt, see `chosen_option`.
    """

    question: Question
    video: str
    answer: str
    labels: tuple[str, ...] | None = None

    @cached_property
    def scored_by(self) -> str:
        """The rule: `BY_OPTION`, `BY_EXACT_ANSWER` or `BY_TEXT`."""
        if self._right_option is not None:
            return BY_OPTION
        return BY_TEXT if is_free_text(self.question) else BY_EXACT_ANSWER

    @cached_property
    def score(self) -> float:
        """1 for a right answer and 0 for a wrong one; of a free text anything between."""
        if self.scored_by == BY_TEXT:
            return rouge_l(self.answer, self.question.answer)
        if self.scored_by == BY_EXACT_ANSWER:
            return float(same_answer(self.answer, self.question.answer))
        return float(self._option(self.answer) == self._right_option)

    @property
    def correct(self) -> bool | None:
        """Whether the answer is right; None of a free text, which is neither right nor wrong."""
        return None if self.scored_by == BY_TEXT else self.score == 1.0

    @property
    def type(self) -> str:
        """The question's type; questions without one are `untyped`."""
        return self.question.type or UNTYPED

    @cached_property
    def _right_option(self) -> int | None:
        """The option that the expected answer is, by its text or, in benchmarks, by its label."""
        options, answer = self.question.options, self.question.answer
        if not options:
            return None
        return options.index(answer) if answer in options else self._option(answer)

    def _option(self, answer: str) -> int | None:
        return chosen_option(answer, self.question.options or (), self.labels)


def is_free_text(question: Question) -> bool:
    """Returns whether a question without options wants a caption or a long answer."""
    long = word_count(question.answer) > LONGEST_SHORT_ANSWER
    return not question.options and (long or not question.question.strip())


@dataclass(frozen=True)
class Agreement:
    """Agreement of two models on the answers of one of them, the reference.

    Attributes:
      answers: of the reference.
      same_answers: share that the other model gives too, token by token, 0 to 1.
      tokens: of all answers, their ends included.
      same_tokens: share for which both models find the same token most probable, 0 to 1.
      kl: mean KL divergence of the other model from the reference at these tokens, in nats.
    """

    answers: int
    same_answers: float
    tokens: int
    same_tokens: float
    kl: float

    def __str__(self) -> str:
        """Returns a sentence."""
        return (
            f"{self.same_tokens:.2%} of {self.tokens} answer tokens and {self.same_answers:.2%} of "
            f"{self.answers} answers are the same, KL divergence {self.kl:.2g} nats a token"
        )


def accuracy(predictions: Collection[Prediction]) -> float | None:
    """Returns the share of right answers, 0 to 1; 0 of none at all, None of free texts alone."""
    found = _mean([p.score for p in predictions if p.scored_by != BY_TEXT])
    return found if predictions else 0.0


def text_score(predictions: Collection[Prediction]) -> float | None:
    """Returns the mean ROUGE-L of free texts, 0 to 1; None if there are none."""
    return _mean([p.score for p in predictions if p.scored_by == BY_TEXT])


def accuracy_by_type(predictions: Collection[Prediction]) -> dict[str, float]:
    """Returns the `accuracy` of each type of question that has one, by name."""
    return _by_type(predictions, accuracy)


def text_score_by_type(predictions: Collection[Prediction]) -> dict[str, float]:
    """Returns the `text_score` of each type of question that has one, by name."""
    return _by_type(predictions, text_score)


def rules_by_type(predictions: Collection[Prediction]) -> dict[str, dict[str, int]]:
    """Returns how many answers of each type are scored by each rule."""
    return {name: dict(Counter(p.scored_by for p in g)) for name, g in _groups(predictions)}


def _by_type(
    predictions: Collection[Prediction], mean: Callable[[list[Prediction]], float | None]
) -> dict[str, float]:
    found = {name: mean(group) for name, group in _groups(predictions)}
    return {name: value for name, value in found.items() if value is not None}


def _groups(predictions: Collection[Prediction]) -> list[tuple[str, list[Prediction]]]:
    groups: dict[str, list[Prediction]] = defaultdict(list)
    for prediction in predictions:
        groups[prediction.type].append(prediction)
    return sorted(groups.items())


def _mean(scores: list[float]) -> float | None:
    return sum(scores) / len(scores) if scores else None
