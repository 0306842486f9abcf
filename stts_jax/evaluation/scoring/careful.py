"""The option that an answer names, read with care: the fixed rule of every multiple choice.

It is one reader for all benchmarks. It never guesses: an answer that names no option, or two of
them as if it could not decide, is read as none, and counts as wrong.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from string import ascii_uppercase

SPECIAL_TOKEN = re.compile(r"<\|[^|<>]*\|>")
LEAD_IN = re.compile(
    r"^\W*(?:so|therefore|thus)?\W*(?:i\s+(?:think|believe|choose|pick)\s+)?(?:that\s+)?"
    r"(?:(?:the|my)\s+)?(?:(?:best|correct|right|final)\s+)?"
    r"(?:\b(?:answer|option|choice)\b\s*(?:is|:|must be|would be)?\s*)+",
    re.IGNORECASE,
)
# The first letter or digit of the answer, if it is a word of its own.
OPENING = re.compile(r"^[^\w]*([A-Za-z])(?!\w|['\u2019]\w)(.*)$", re.DOTALL)
# Goes on with another letter as a second choice: "B or C", "A, B", "B/C".
HEDGE = re.compile(r"^\W{0,2}(?:(?:or|and)\W{1,2}|[,/&]\s?\W?)([A-Z])(?!\w|['\u2019]\w)")
LONE_CAPITAL = re.compile(r"(?<!\w)(?<!\w['\u2019])([A-Z])(?!\w|['\u2019]\w)")
VERDICT = re.compile(r"^\W*\bis\b.*\b(?:correct|right|answer)\b", re.IGNORECASE | re.DOTALL)
# Capitals that are words, unless more than a space follows.
WORDS = "AI"


def named_option(text: str, letters: int, options: Sequence[str] = ()) -> int | None:
    """Index of the option that an answer names, or None.

    In this order: the wording of an option; a letter that opens the answer (after words like
    "The best answer is"), in either case if a sign follows it ("b)"), as a capital if a word
    does ("B sits down"); the only capital that stands alone; the only option whose wording the
    answer holds. An "A" or "I" before a word is taken for a word.

    Args:
      text: the answer.
      letters: how many options there are.
      options: their wordings, if known.
    """
    text = SPECIAL_TOKEN.sub(" ", text).strip()
    choices = ascii_uppercase[:letters]
    for candidate in (text, LEAD_IN.sub("", text, count=1)):
        index = _same_wording(candidate, options)
        if index is not None and not (len(candidate) == 1 and candidate.upper() in choices):
            return index
    rest = LEAD_IN.sub("", text, count=1)
    opening = _opening_letter(rest, choices, options)
    if opening is not None:
        return choices.index(opening) if opening else None
    return _only_capital(rest, choices, _held_wording(rest, options))


def wording(text: str) -> str:
    """Words of a text in lower case with single spaces, without punctuation."""
    return " ".join(re.findall(r"[\w.']+", text.casefold().replace("\u2019", "'"))).strip(" .'")


def _same_wording(text: str, options: Sequence[str]) -> int | None:
    words = wording(text)
    same = [index for index, option in enumerate(options) if words and wording(option) == words]
    return same[0] if len(same) == 1 else None


def _opening_letter(text: str, choices: str, options: Sequence[str]) -> str | None:
    """The letter that the text opens with, "" if it hedges, None if it opens otherwise."""
    found = OPENING.match(text)
    if not found or found[1].upper() not in choices:
        return None
    letter, tail = found[1], found[2]
    hedge = HEDGE.match(tail)
    if hedge and hedge[1] in choices and hedge[1] != letter.upper():
        return ""
    own_wording = options and wording(tail) == wording(options[choices.index(letter.upper())])
    if not tail.strip() or not tail[0].isspace() or own_wording:
        return letter.upper()
    if letter.isupper() and (letter not in WORDS or VERDICT.match(tail)):
        return letter
    return None


def _only_capital(text: str, choices: str, held: int | None) -> int | None:
    capitals = {
        found[1]
        for found in LONE_CAPITAL.finditer(text)
        if found[1] in choices
        and not (found[1] in WORDS and re.match(r"\s+[a-z]", text[found.end() :]))
    }
    if len(capitals) == 1:
        return choices.index(capitals.pop())
    return None if capitals else held


def _held_wording(text: str, options: Sequence[str]) -> int | None:
    """The only option whose words the text holds, words of longer options being taken first."""
    text = f" {wording(text)} "
    held = []
    for index in sorted(range(len(options)), key=lambda i: -len(wording(options[i]))):
        words = f" {wording(options[index])} "
        if words.strip() and words in text:
            held.append(index)
            text = text.replace(words, " | ")
    return held[0] if len(held) == 1 else None
