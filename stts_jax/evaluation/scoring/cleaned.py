"""Metrics of one score, for the answer in a text: short answers and plain multiple choice.

Source: docs/reference.md#metrics, the reference's `VqaEval`. Names are the reference's ("ansl"
too).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from string import ascii_uppercase

import numpy as np

from stts_jax.evaluation.scoring import letters, vqa
from stts_jax.evaluation.scoring.answer_text import clean_answer
from stts_jax.evaluation.scoring.careful import named_option
from stts_jax.evaluation.scoring.choices import (
    answer_index,
    first_letter_score,
    nearest_option_score,
    option_wordings,
    references,
    right_letter_named,
)
from stts_jax.evaluation.scoring.score import Metadata, Metric, Score

PERCEPTION_TEST_OPTIONS = 4

Rule = Callable[[str, Metadata], Score]
GuessingReader = Callable[[str, Sequence[str], np.random.RandomState], letters.Reading]


def cleaned(name: str, rule: Callable[[str, Metadata, np.random.RandomState], Score]) -> Metric:
    """A metric of one score for `clean_answer` of the text, in all and by `task_type`.

    The reference reports no task types, because its processes would have to agree on them.
    """

    def scores(
        answer: str, metadata: Metadata, generator: np.random.RandomState
    ) -> Mapping[str, Score]:
        score = rule(clean_answer(answer), metadata, generator)
        kind = metadata.get("task_type")
        return dict.fromkeys((name, f"{name}_{kind}") if kind else (name,), score)

    return Metric(name, scores, name, (name,), (name,))


def _drawless(name: str, rule: Rule) -> Metric:
    return cleaned(name, lambda text, metadata, generator: rule(text, metadata))


def _against_references(
    name: str,
    published: Callable[[str, str], float],
    fixed: Callable[[str, str], float] | None = None,
) -> Metric:
    """The best over the right answers, of functions of a right answer and the text."""

    def best(text: str, metadata: Metadata) -> Score:
        right = references(metadata)
        value = max(float(published(answer, text)) for answer in right)
        if fixed is None:
            return Score.of(value)
        return Score(value, max(float(fixed(answer, text)) for answer in right))

    return _drawless(name, best)


def _letter_or_guess(name: str, reader: GuessingReader, count: int | None) -> Metric:
    """Compares letters; a letter that the reader does not find it draws.

    Args:
      name: of the metric.
      reader: gives a letter for a text and options.
      count: how many options it looks at, None for all.
    """

    def rule(text: str, metadata: Metadata, generator: np.random.RandomState) -> Score:
        reading = reader(text, metadata["options"], generator)
        right = _right_letter(metadata)
        wordings = option_wordings(metadata)[:count]
        fixed = right_letter_named(text, right, wordings)
        return Score(float(reading.letter == right), fixed, reading.guessed)

    return cleaned(name, rule)


def _right_letter(metadata: Metadata) -> str:
    if "answer_idx" in metadata:
        return ascii_uppercase[answer_index(metadata)]
    return references(metadata)[0]


def _perception_test(text: str, metadata: Metadata) -> Score:
    right, wordings = answer_index(metadata), option_wordings(metadata)
    count = len(wordings) or PERCEPTION_TEST_OPTIONS
    return Score(
        value=float(letters.perception_test_index(text) == right),
        fixed=float(named_option(text, count, wordings) == right),
    )


METRICS = (
    _drawless("mc", nearest_option_score),
    _drawless("em_start", first_letter_score),
    _drawless("perception_test_mc", _perception_test),
    _letter_or_guess("nextqa_mc", letters.next_qa_letter, letters.FIVE),
    _letter_or_guess("ego_schema_mc", letters.ego_schema_letter, letters.FIVE),
    _letter_or_guess("muir_bench_mc", letters.muir_bench_reading, None),
    _drawless("vqa_score", lambda t, m: Score.of(vqa.vqa_score(references(m), t))),
    _drawless("a_okvqa_score", lambda t, m: Score.of(vqa.a_okvqa_score(references(m), t))),
    _against_references("em", lambda answer, text: answer.lower() == text.lower()),
    _against_references("ansl", vqa.anls),
    _against_references(
        "relaxed_correctness", vqa.relaxed_correctness, vqa.relaxed_correctness_fixed
    ),
    _against_references("scifi_relaxed_correctness", vqa.scifi_relaxed_correctness),
)
