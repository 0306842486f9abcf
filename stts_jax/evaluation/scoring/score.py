"""Scores single answers, and sums up many.

Two rules are kept side by side. The *published* one is what the reference's evaluators do, bugs
included, because published numbers were made with it. The *fixed* one reads answers carefully,
never guesses, and leaves no answer out. Where the two differ, so do the two numbers of a report.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Metadata = Mapping[str, Any]
DIFFICULTIES = ("easy", "medium", "hard")


class ScoringError(ValueError):
    """An answer that cannot be scored; the message is one sentence that names what is missing."""


@dataclass(frozen=True)
class Score:
    """The score of one answer, by both rules.

    Attributes:
      value: by the published rule; None if that rule leaves the question out.
      fixed: by the fixed rule; None if nothing could judge the answer.
      guessed: the published rule found no answer in the text and drew one at random.
    """

    value: float | None
    fixed: float | None
    guessed: bool = False

    @classmethod
    def of(cls, value: float) -> Score:
        """The same by both rules."""
        return cls(float(value), float(value))


Scores = Mapping[str, Score]
ScoreFunction = Callable[[str, Metadata, np.random.RandomState], Scores]


@dataclass(frozen=True)
class Mean:
    """A mean and over how many it is; `value` is NaN if there are none."""

    value: float
    count: int


def mean(values: Iterable[float | None]) -> Mean:
    """The mean of what is not None. Source: `mean_metric` of the reference's evaluators."""
    counted = [value for value in values if value is not None]
    return Mean(float(np.mean(counted)) if counted else math.nan, len(counted))


@dataclass(frozen=True)
class Metric:
    """The scoring of a benchmark.

    Attributes:
      name: that errors and saved results carry.
      score: answer, metadata and generator to the scores that the answer adds to, by group.
      headline: group whose mean stands for the benchmark.
      groups: reported even if no question is in them.
      difficulty_groups: also reported by difficulty where questions have `sample_difficulty`.
      derived: means that are made from the other means.
    """

    name: str
    score: ScoreFunction
    headline: str
    groups: tuple[str, ...] = ()
    difficulty_groups: tuple[str, ...] = ()
    derived: Callable[[Mapping[str, Mean]], Mapping[str, Mean]] | None = None

    def __call__(
        self, answer: str, metadata: Metadata, generator: np.random.RandomState
    ) -> dict[str, Score]:
        """The scores of one answer by group.

        Args:
          answer: what the model said, without special tokens.
          metadata: of the question.
          generator: for the published rule where it guesses.

        Raises:
          ScoringError: if `metadata` lacks what the metric compares with.
        """
        try:
            scores = dict(self.score(answer, metadata, generator))
        except KeyError as error:
            example = metadata.get("example_id", "without an id")
            raise ScoringError(
                f"metric '{self.name}' needs {error} in the metadata of example '{example}'; use "
                "a metric that suits the dataset or add it to the dataset's examples"
            ) from None
        difficulty = metadata.get("sample_difficulty")
        if difficulty is None:
            return scores
        split = {n: s for n, s in scores.items() if n in self.difficulty_groups}
        return scores | {f"{name}_{difficulty}": score for name, score in split.items()}


@dataclass(frozen=True)
class Summary:
    """The summary of all answers to a benchmark.

    Attributes:
      headline: group whose mean stands for the benchmark.
      published: means by group, as the reference computes them.
      fixed: the same by the fixed rule.
      questions: number of answers.
      skipped: questions that the published rule left out because it found no answer.
      guessed: questions for which the published rule drew a letter at random.
      not_judged: questions that nothing could judge; the fixed rule leaves them out.
    """

    headline: str
    published: dict[str, Mean] = field(default_factory=dict)
    fixed: dict[str, Mean] = field(default_factory=dict)
    questions: int = 0
    skipped: int = 0
    guessed: int = 0
    not_judged: int = 0

    @property
    def value(self) -> float:
        """The headline by the published rule."""
        return self.published[self.headline].value

    @property
    def fixed_value(self) -> float:
        """The headline by the fixed rule."""
        return self.fixed[self.headline].value

    def notes(self) -> list[str]:
        """Remarks that a reader of the number needs, a sentence each."""
        counts = (
            (self.not_judged, "not judged: {}"),
            (self.skipped, "left out by the published rule: {}"),
            (self.guessed, "guessed at random by the published rule: {}"),
        )
        return [text.format(count) for count, text in counts if count]


def guess_generator(index: int) -> np.random.RandomState:
    """The generator of a question's guess.

    The reference guesses from a global generator, so a guess depends on every question before it
    and on how many processes share the work. Here it depends only on the question's number.

    Args:
      index: of the question in its dataset.
    """
    return np.random.RandomState(np.random.MT19937(np.random.SeedSequence(index)))


def score_answers(
    metric: Metric,
    answers: Sequence[str],
    metadata: Sequence[Metadata],
    indices: Sequence[int] | None = None,
) -> list[dict[str, Score]]:
    """The scores of each answer.

    Args:
      metric: of the benchmark.
      answers: what the model said.
      metadata: of the questions, in the same order.
      indices: of the questions in their dataset, by default 0, 1, 2, ...

    Raises:
      ScoringError: see `Metric`, or if there are not as many answers as questions.
    """
    if len(answers) != len(metadata):
        raise ScoringError(
            f"metric '{metric.name}' got {len(answers)} answers to {len(metadata)} questions; "
            "give one answer for each question"
        )
    indices = range(len(answers)) if indices is None else indices
    return [
        metric(answer, question, guess_generator(index))
        for index, answer, question in zip(indices, answers, metadata, strict=True)
    ]


def summarize(metric: Metric, scores: Sequence[Scores]) -> Summary:
    """Add up what `score_answers` gave.

    A question is counted as skipped, guessed or not judged if any of its scores is.
    """
    scored = {name for one in scores for name in one}
    split = {f"{g}_{d}" for g in metric.difficulty_groups for d in DIFFICULTIES}
    names = {*metric.groups, *scored, metric.headline, *(split if split & scored else ())}
    found: dict[str, list[Score]] = {name: [] for name in sorted(names)}
    for one in scores:
        for name, score in one.items():
            found[name].append(score)
    published = {name: mean(s.value for s in group) for name, group in found.items()}
    fixed = {name: mean(s.fixed for s in group) for name, group in found.items()}
    if metric.derived:
        published |= metric.derived(published)
        fixed |= metric.derived(fixed)
    return Summary(
        headline=metric.headline,
        published=published,
        fixed=fixed,
        questions=len(scores),
        skipped=sum(any(s.value is None for s in one.values()) for one in scores),
        guessed=sum(any(s.guessed for s in one.values()) for one in scores),
        not_judged=sum(any(s.fixed is None for s in one.values()) for one in scores),
    )
