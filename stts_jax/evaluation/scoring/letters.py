"""The letter that a text names, as each benchmark's published rule reads it.

These readers differ, and each has its oddities; numbers of other models were made with them, so
they are kept as they are. `careful.py` holds the one reader that means well by the answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase

import numpy as np

from stts_jax.evaluation.scoring.score import ScoringError

# Taken off both ends of an answer, one after the other.
PUNCTUATION = (",", ".", "!", "?", ";", ":", "'")
# Below this many words a text is not searched for the wording of an option.
CONTENT_WORDS = 5
# Options of a question of NextQA and EgoSchema.
FIVE = 5

# Two pairs are one string each in the reference, where a comma is missing, so neither of a pair
# is ever removed: "Best answer: C" is read as B.
VIDEO_MME_LEAD_INS = (
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    "The best option is" + "The correct option is",
    "Best answer:" + "Best option:",
    "Answer:",
    "Option:",
    "The correct answer",
    "The correct option",
)
# No "Answer:" here, so "Answer: C" is read as A.
LONG_VIDEO_BENCH_LEAD_INS = (
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    "The best option is",
    "The correct option is",
    "Best answer:",
    "Best option:",
)


@dataclass(frozen=True)
class Reading:
    """A letter, and whether it was drawn because none was found."""

    letter: str
    guessed: bool = False


def video_mme_letter(text: str) -> str:
    """The first capital A to D after the lead-in, or "" if there is none.

    Source: the reference's `VideoMMEEval`.
    """
    return _first_capital(text, VIDEO_MME_LEAD_INS, "[ABCD]")


def long_video_bench_letter(
    text: str, options: Sequence[str], generator: np.random.RandomState
) -> Reading:
    """The first capital A to E after the lead-in, or one of the options' letters at random.

    Source: the reference's `LongVideoBenchEval`.
    """
    letter = _first_capital(text, LONG_VIDEO_BENCH_LEAD_INS, "[ABCDE]")
    return Reading(letter) if letter else _guess(_letters(options), generator)


def perception_test_index(text: str) -> int:
    """Index of the first capital A to D that is a word of its own, or -1.

    Source: the reference's `select_perception_test_option`.
    """
    found = re.search(r"\b([A-D])\b", text)
    return ascii_uppercase.index(found[1]) if found else -1


def next_qa_letter(text: str, options: Sequence[str], generator: np.random.RandomState) -> Reading:
    """The last letter named as `(X)`, else as ` X `, else as `X.`, else by its option's wording.

    With none of these it is drawn at random. Options after the fifth are not looked at.

    Source: the reference's `nextqa_mc`.

    Raises:
      ScoringError: if there are fewer than five options.
    """
    options = _first_five(options)
    text = _padded(text)
    letter = _last_named(text, _letters(options), ("({})", " {} ", "{}."))
    letter = letter or _last_worded(text, options)
    return Reading(letter) if letter else _guess(_letters(options), generator)


def muir_bench_letter(text: str, options: Sequence[str]) -> str:
    """The last letter named as `(X)`, else `X)`, `X.`, `X:`, alone or ` X `, else by wording.

    "" if there is none. Source: the reference's `muir_bench_mc`.
    """
    options = [option.strip() for option in options]
    letters = _letters(options)
    text = _padded(text)
    letter = _last_named(text, letters, ("({})", "{})", "{}.", "{}:"))
    if not letter and text.strip() in tuple(letters):
        letter = text.strip()
    letter = letter or _last_named(text, letters, (" {} ",))
    return letter or _last_worded(text, options)


def muir_bench_reading(
    text: str, options: Sequence[str], generator: np.random.RandomState
) -> Reading:
    """`muir_bench_letter`, or one at random."""
    letter = muir_bench_letter(text, options)
    return Reading(letter) if letter else _guess(_letters(options), generator)


def ego_schema_letter(
    text: str, options: Sequence[str], generator: np.random.RandomState
) -> Reading:
    """The mention `(X)`, `X ` or `X.` that comes first, else an option's wording, else a draw.

    "First" goes by the last position of each spelling of a letter. A letter at the end
    of a word counts too ("AB" names B). Options after the fifth are not looked at.

    Source: the reference's `select_ego_schema_option`.

    Raises:
      ScoringError: if there are fewer than five options.
    """
    options = _first_five(options)
    letters = _letters(options)
    text = _padded(text)
    mentions = [
        (text.rfind(form.format(letter)), letter)
        for form in ("({})", "{} ", "{}.")
        for letter in letters
        if form.format(letter) in text
    ]
    mentions = mentions or _worded(text, options)
    if mentions:
        return Reading(min(mentions, key=lambda mention: mention[0])[1])
    return _guess(letters, generator)


def starts_with_letter(text: str, answer: str) -> bool:
    """Whether text and answer begin alike, case aside ("a ball" begins like "A.").

    Source: the reference's `em_start`, which scores MVBench, MotionBench, MLVU and VideoEvalPro,
    and its `LVBenchEval`.
    """
    return text.lower().strip().startswith(answer.lower().strip()[0])


def _first_capital(text: str, lead_ins: Sequence[str], letters: str) -> str:
    text = text.strip()
    for lead_in in lead_ins:
        text = text.replace(lead_in, "")
    found = re.search(letters, text)
    return found[0] if found else ""


def _padded(text: str) -> str:
    for mark in PUNCTUATION:
        text = text.strip(mark)
    return f" {text} "


def _first_five(options: Sequence[str]) -> list[str]:
    if len(options) < FIVE:
        raise ScoringError(
            f"the options {list(options)} are {len(options)}, but this reader needs five; use the "
            "metric 'muir_bench_mc' for such questions"
        )
    return [option.strip() for option in options[:FIVE]]


def _letters(options: Sequence[str]) -> str:
    return ascii_uppercase[: len(options)]


def _last_named(text: str, letters: str, forms: Sequence[str]) -> str:
    """Returns the last letter in the first of the `forms` that any letter has."""
    for form in forms:
        named = [(text.rfind(form.format(letter)), letter) for letter in letters]
        named = [mention for mention in named if mention[0] >= 0]
        if named:
            return max(named, key=lambda mention: mention[0])[1]
    return ""


def _last_worded(text: str, options: Sequence[str]) -> str:
    worded = _worded(text, options)
    return max(worded, key=lambda mention: mention[0])[1] if worded else ""


def _worded(text: str, options: Sequence[str]) -> list[tuple[int, str]]:
    """Last position and letter of each option whose wording is in a text of several words."""
    if len(text.split()) <= CONTENT_WORDS:
        return []
    positions = [text.lower().rfind(option.lower()) for option in options]
    return [
        (position, letter)
        for position, letter in zip(positions, _letters(options), strict=True)
        if position >= 0
    ]


def _guess(letters: str, generator: np.random.RandomState) -> Reading:
    return Reading(letters[generator.randint(len(letters))], guessed=True)
