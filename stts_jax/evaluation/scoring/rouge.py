"""ROUGE-L: how much of a free text is as it was expected, word for word in the same order."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

from stts_jax.evaluation.scoring.words import words

# Scripts that put no spaces between words; each character counts as one.
_SPACELESS = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")


def rouge_l(given: str, expected: str) -> float:
    """Returns the F1 of the longest common subsequence of words, 0 to 1; 0 of an empty answer."""
    said, wanted = list(_units(given)), list(_units(expected))
    common = _longest_common(said, wanted)
    return 2 * common / (len(said) + len(wanted)) if common else 0.0


def word_count(text: str) -> float:
    """Returns the number of words of a text; two characters of a spaceless script make one."""
    return sum(0.5 if _is_spaceless(unit) else 1.0 for unit in _units(text))


def _units(text: str) -> Iterator[str]:
    for word in words(text):
        if any(map(_is_spaceless, word)):
            yield from word
        else:
            yield word


def _is_spaceless(character: str) -> bool:
    return len(character) == 1 and unicodedata.name(character, "").startswith(_SPACELESS)


def _longest_common(first: list[str], second: list[str]) -> int:
    lengths = [0] * (len(second) + 1)
    for one in first:
        diagonal = 0
        for column, other in enumerate(second, start=1):
            above = lengths[column]
            lengths[column] = diagonal + 1 if one == other else max(above, lengths[column - 1])
            diagonal = above
    return lengths[-1]
