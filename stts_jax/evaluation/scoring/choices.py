"""Scores of one answer to a multiple choice, by both rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from stts_jax.evaluation.scoring.careful import named_option
from stts_jax.evaluation.scoring.letters import starts_with_letter
from stts_jax.evaluation.scoring.options import nearest_option
from stts_jax.evaluation.scoring.score import Metadata, Score

LABEL_ENDS = ".):"
# Stands for the answers of MotionBench's test split, which are not published.
UNPUBLISHED = "NA"


def references(metadata: Metadata) -> list[str]:
    """The right answers: `answer`, one or several, else `answers`."""
    answers: Any = metadata["answer"] if "answer" in metadata else metadata["answers"]
    return [answers] if isinstance(answers, str) else list(answers)


def answer_index(metadata: Metadata) -> int:
    """Index of the right option; KeyError if it is not there or not published (None)."""
    if metadata["answer_idx"] is None:
        raise KeyError("answer_idx")
    return int(metadata["answer_idx"])


def option_wordings(metadata: Metadata) -> list[str]:
    """The options without their letters ("A. red" is "red"); empty if they are not given.

    They may be a sequence, or a mapping from letters.
    """
    options = metadata.get("options") or ()
    options = [str(o) for o in (options.values() if isinstance(options, Mapping) else options)]
    bare = [option.strip().removeprefix("(") for option in options]
    labelled = all(
        option[:1] == letter and option[1:2] and option[1] in LABEL_ENDS
        for option, letter in zip(bare, ascii_uppercase, strict=False)
    )
    return [option[2:].strip() for option in bare] if labelled else options


def right_letter_named(
    text: str, letter: str, wordings: Sequence[str], count: int | None = None
) -> float:
    """1 if the fixed rule reads `letter`, else 0.

    Args:
      text: the answer.
      letter: the right one.
      wordings: of the options, empty if unknown.
      count: of options where the wordings are unknown, by default any letter is one.
    """
    named = named_option(text, len(wordings) or count or len(ascii_uppercase), wordings)
    return float(named is not None and ascii_uppercase[named] == letter)


def nearest_option_score(text: str, metadata: Metadata) -> Score:
    """Published: the nearest of `option_names`, which are letters or wordings."""
    names, right = list(metadata["option_names"]), answer_index(metadata)
    wordings = option_wordings(metadata)
    if len(wordings) != len(names):
        wordings = [] if all(len(name) == 1 for name in names) else names
    return Score(
        value=float(nearest_option(text, names) == right),
        fixed=float(named_option(text, len(names), wordings) == right),
    )


def first_letter_score(text: str, metadata: Metadata) -> Score:
    """Published: the answer begins with the letter that the right answer begins with."""
    right = references(metadata)[0].strip()
    if right == UNPUBLISHED:
        raise KeyError("answer")
    value = float(starts_with_letter(text, right))
    letter = right[0].upper()
    if letter not in ascii_uppercase:
        return Score.of(value)
    return Score(value, right_letter_named(text, letter, option_wordings(metadata)))
