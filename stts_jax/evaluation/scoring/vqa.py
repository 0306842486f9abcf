"""Short answers against reference answers: VQA-v2 accuracy, edit distance, numbers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from stts_jax.evaluation.scoring.options import edit_distance

ARTICLES = ("a", "an", "the")
_COUNTED = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBER_WORDS = {word: str(number) for number, word in enumerate(_COUNTED)}
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
# The VQA-v2 evaluation hands a regex flag over as the number of full stops to remove.
FULL_STOPS_REMOVED = 32
AGREEING_ANSWERS = 3
TOLERANCE = 0.05
SHORTEST_SIMILARITY = 0.5

# Contracted forms that VQA-v2 restores an apostrophe in; those of the second group have two or
# more apostrophes, any one of which may be missing.
_CONTRACTIONS = """
ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd
how'll how's isn't it'd it'll ma'am mightn't might've mustn't must've needn't not've o'clock
oughtn't shan't should've shouldn't somebody'll somebody's someone'd someone'll someone's
something'd something'll that's there'd there're there's they'd they'll they're they've 'twas
wasn't we've weren't what'll what're what's what've when's where'd where's where've who'd who'll
who's who've why'll why're why's won't would've wouldn't y'all you'd you'll you're you've
"""
_DOUBLE_CONTRACTIONS = """
couldn't've hadn't've he'd've it'd've mightn't've 'ow's'at she'd've shouldn't've somebody'd've
someone'd've something'd've there'd've they'd've we'd've who'd've wouldn't've y'all'll y'all'd've
you'd've
"""


def _without_each_apostrophe(word: str) -> Iterable[str]:
    return (word[:i] + word[i + 1 :] for i, mark in enumerate(word) if mark == "'")


# "somebody'd" loses its apostrophe in the original table, where all others gain one.
CONTRACTIONS = {
    bare: word
    for word in (_CONTRACTIONS + _DOUBLE_CONTRACTIONS).split()
    for bare in _without_each_apostrophe(word)
} | {"somebody'd": "somebodyd"}


def normalized_answer(text: str) -> str:
    """Lower case, digits for number words, no articles, little punctuation.

    A comma inside a number ("1,000") makes all punctuation vanish; else punctuation becomes a
    space unless a space is beside it.

    Source: the VQA-v2 evaluation, as in the reference's `preprocess_answer`.
    """
    text = text.replace("\n", " ").replace("\t", " ").lower().strip()
    has_number_with_comma = re.search(r"\d,\d", text) is not None
    cleaned = text
    for mark in PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        cleaned = cleaned.replace(mark, "" if beside_space or has_number_with_comma else " ")
    cleaned = re.sub(r"\.(?!\d)", "", cleaned, count=FULL_STOPS_REMOVED)
    digits = NUMBER_WORDS | {"none": "0"}
    words = (digits.get(word, word) for word in cleaned.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def vqa_score(references: str | Sequence[str], text: str) -> float:
    """A third for each reference that agrees, at most 1; a single string must be equal.

    A single reference string is not normalised, the answer is. No answer is left out in turn as
    the original evaluation does. Source: the reference's `vqa_score`.
    """
    text = normalized_answer(text)
    if isinstance(references, str):
        return float(text == references)
    return _agreement(map(normalized_answer, references), text)


def a_okvqa_score(references: Sequence[str], text: str) -> float:
    """Like `vqa_score`, with no more than case and outer spaces taken off."""
    return _agreement((r.lower().strip() for r in references), text.lower().strip())


def anls(reference: str, text: str) -> float:
    """Similarity by edit distance, 0 where it is half or less; case does not count.

    Two empty strings are equal; the reference divides by zero there, a plain bug.

    Source: the reference's `anls_metric` (it calls the metric "ansl").
    """
    longest = max(len(reference), len(text))
    if not longest:
        return 1.0
    distance = edit_distance(reference.lower(), text.lower()) / longest
    return 1 - distance if distance < SHORTEST_SIMILARITY else 0.0


def relaxed_correctness(reference: str, text: str) -> bool:
    """Numbers within 5 %, anything else equal but for case.

    A reference of 0 is compared as a string, so "0.0" is not 0; `relaxed_correctness_fixed` fixes
    that. Source: the reference's `relaxed_correctness`.
    """
    wanted, given = _number(reference), _number(text)
    if given is None or not wanted:
        return text.lower() == reference.lower()
    return abs(given - wanted) / abs(wanted) <= TOLERANCE


def relaxed_correctness_fixed(reference: str, text: str) -> bool:
    """`relaxed_correctness`, but two zeros are equal however they are written."""
    if _number(reference) == 0 and _number(text) == 0:
        return True
    return relaxed_correctness(reference, text)


def scifi_relaxed_correctness(reference: str, text: str) -> bool:
    """Whether the first number of the answer, or a hundredth of it, is within 5 %.

    Number words count at any position, even inside words; a sign counts only before a number
    with a decimal point. A reference that is no number must be held by the answer; one in the form
    of a list, all of its parts.

    Source: the reference's `scifi_relaxed_correctness`.
    """
    text, reference = _after_answer(text), _after_answer(reference)
    if not text:
        return False
    text = text.removesuffix(".")
    try:
        wanted = float(reference)
    except ValueError:
        return _holds(text, reference)
    return _holds_number(text, wanted)


def _agreement(references: Iterable[str], text: str) -> float:
    return min(Counter(references)[text] / AGREEING_ANSWERS, 1.0)


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def _after_answer(text: str) -> str:
    parts = text.lower().strip().split("answer:")
    return parts[1].strip() if len(parts) > 1 else parts[0]


def _holds(text: str, reference: str) -> bool:
    if "[" in reference and "," in reference:
        parts = reference.replace("[", "").replace("]", "").split(",")
        return all(part.strip() in text for part in parts)
    return reference.strip() in text


def _holds_number(text: str, wanted: float) -> bool:
    text = text.replace(",", "")
    for word, digit in NUMBER_WORDS.items():
        text = text.replace(word, digit)
    found = re.search(r"[-+]?\d*\.\d+|\d+", text)
    if not found:
        return False
    given = float(found[0])
    scale = abs(wanted) or 1.0
    return any(abs(wanted - value) / scale <= TOLERANCE for value in (given, given / 100))
