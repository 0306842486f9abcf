"""Finds the option that an answer names: the fixed rule of every multiple choice.

It is one reader for all benchmarks. It never guesses: an answer that names no option, or two of
them as if it could not decide, is read as none, and counts as wrong.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from string import ascii_uppercase

from stts_jax.evaluation.scoring.words import SPECIAL_TOKEN, words

LEAD_IN = re.compile(
    r"^\W*(?:so|therefore|thus)?\W*(?:i\s+(?:think|believe|choose|pick)\s+)?(?:that\s+)?"
    r"(?:(?:the|my)\s+)?(?:(?:best|correct|right|final)\s+)?"
    r"(?:\b(?:answer|option|choice)\b\s*(?:is|:|must be|would be)?\s*)+",
    re.IGNORECASE,
)
# No part of a longer name follows a letter that is a word of its own: not "C++", "A-team".
_ALONE = r"(?![\w+#]|['\u2019-]\w)"
# The first letter or digit of the answer, if it is a word of its own.
OPENING = re.compile(rf"^[^\w]*([A-Za-z]){_ALONE}(.*)$", re.DOTALL)
# Goes on with another letter as a second choice: "B or C", "A, B", "B/C", "B C".
HEDGE = re.compile(
    rf"^(?:\W{{0,2}}(?:or\W{{1,2}}(?:[a-z]+\W{{1,2}}){{0,2}}|and\W{{1,2}}|[,/&]\s?\W?)"
    rf"([A-Z]){_ALONE}|[.,)\s]+([A-Z])\W*$)"
)
LONE_CAPITAL = re.compile(rf"(?<!\w)(?<!\w['\u2019-])([A-Z]){_ALONE}")
VERDICT = re.compile(r"^\W*\bis\b.*\b(?:correct|right|answer)\b", re.IGNORECASE | re.DOTALL)
# Capitals that are words, unless more than a space follows.
WORDS = "AI"
# Stands where an option was mentioned; no word holds it.
TAKEN = "\0"
# Of the words before an option that is mentioned, so many may say that it is not the one.
NEGATION_WORDS = 3
NEGATIONS = frozenset(("not", "never", "neither", "nor", "cannot", "without"))


def named_option(text: str, letters: int, options: Sequence[str] = ()) -> int | None:
    """Index of the option that an answer names, or None.

    In this order: the wording of an option; a letter that opens the answer (after words like
    "The best answer is"), in either case if a sign follows it ("b)"), as a capital if a word
    does ("B sits down"); the only capital that is a word; the only option whose wording the
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
    return _only_capital(rest, choices, _held_wording(rest, options), options)


def wording(text: str) -> str:
    """Words of a text in lower case with single spaces, without the punctuation of sentences."""
    return " ".join(words(text, articles=True))


def _same_wording(text: str, options: Sequence[str]) -> int | None:
    said = wording(text)
    same = [index for index, option in enumerate(options) if said and wording(option) == said]
    return same[0] if len(same) == 1 else None


def _opening_letter(text: str, choices: str, options: Sequence[str]) -> str | None:
    """The letter that the text opens with, "" if it hedges, None if it opens otherwise."""
    found = OPENING.match(text)
    if not found or found[1].upper() not in choices:
        return None
    letter, tail = found[1], found[2]
    own_wording = options and wording(tail) == wording(options[choices.index(letter.upper())])
    if own_wording:
        return letter.upper()
    hedge = HEDGE.match(tail)
    second = (hedge[1] or hedge[2]) if hedge else letter.upper()
    if second in choices and second != letter.upper():
        return ""
    if not tail.strip() or not tail[0].isspace():
        return letter.upper()
    if letter.isupper() and (letter not in WORDS or VERDICT.match(tail)):
        return letter
    return None


def _only_capital(text: str, choices: str, held: int | None, options: Sequence[str]) -> int | None:
    """The only letter that is a word, else the option that is held; None if they differ.

    Letters of the held option's own wording ("vitamin C") name no other option.
    """
    capitals = _lone_capitals(text, choices)
    if held is not None:
        capitals -= _lone_capitals(options[held], choices) | {choices[held]}
        return None if capitals else held
    return choices.index(capitals.pop()) if len(capitals) == 1 else None


def _lone_capitals(text: str, choices: str) -> set[str]:
    return {
        found[1]
        for found in LONE_CAPITAL.finditer(text)
        if found[1] in choices
        and not (found[1] in WORDS and re.match(r"\s+[a-z]", text[found.end() :]))
        and not _denied(wording(text[: found.start()]))
    }


def _held_wording(text: str, options: Sequence[str]) -> int | None:
    """The only option whose words the text holds, words of longer options being taken first.

    What the text denies ("not red", "isn't red") it doesn't hold.
    """
    text, named = f" {wording(text)} ", [wording(option) for option in options]
    held = set()
    for index in sorted(range(len(options)), key=lambda i: -len(named[i])):
        if not named[index] or named.count(named[index]) > 1:
            continue
        option = f" {named[index]} "
        before, found, after = text.partition(option)
        while found:
            if not _denied(before) and not _part_of_value(before, named[index], after):
                held.add(index)
            text = f"{before} {TAKEN} {after}"
            before, found, after = text.partition(option)
    return held.pop() if len(held) == 1 else None


def _denied(before: str) -> bool:
    last = re.split(rf"{TAKEN}|\bbut\b", before)[-1].split()[-NEGATION_WORDS:]
    return any(word in NEGATIONS or word.endswith("n't") for word in last)


def _part_of_value(before: str, option: str, after: str) -> bool:
    """Whether a number is only a part of what is said: "5" in "5 %" or "1/5"."""
    sides = (before.split()[-1:], option.split()[:1]), (after.split()[:1], option.split()[-1:])
    return any(
        number[0][-1].isdecimal() and sign and sign[0] != TAKEN and not re.search(r"\w", sign[0])
        for sign, number in sides
    )
