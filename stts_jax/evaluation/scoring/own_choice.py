"""The option that an answer to one's own question names.

Answers in the form that a prompt asked for are read first, exactly: a label, a label and its text,
a text. What is left is prose, which the careful reader of the benchmarks reads.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from string import ascii_uppercase

from stts_jax.data.text.formatting.multiple_choice_templates import (
    COMMON_MARKERS,
    LABEL_SETS,
    RARE_MARKERS,
)
from stts_jax.evaluation.scoring.careful import LEAD_IN, named_option
from stts_jax.evaluation.scoring.choices import option_wordings
from stts_jax.evaluation.scoring.words import SPECIAL_TOKEN, folded, words

_MARKERS = tuple(dict.fromkeys(marker.rstrip() for marker in (*COMMON_MARKERS, *RARE_MARKERS)))
_BEFORE_LABEL, _AFTER_LABEL = r"[(\[{<'\"*_]*", r"[)\]}>'\"*_.,:;=]*"
# "The answer is" and "I choose" in Chinese, which puts no space after them.
_CHINESE_LEAD_IN = re.compile(
    r"^(?:正确)?(?:答案|选项)(?:应该)?(?:是|为)?[\s:\uff1a]*|^我?选择?[\s:\uff1a]*"
)

LEAD_INS = (LEAD_IN, _CHINESE_LEAD_IN)

Reader = Callable[[str, Sequence[str], Sequence[str]], int | None]


def chosen_option(
    text: str, options: Sequence[str], labels: Sequence[str] | None = None
) -> int | None:
    """Returns the index of the option that an answer names; None if it names none, or several.

    Args:
      text: the answer.
      options: their texts.
      labels: of the options in the prompt; an empty sequence if it had none (capital letters are
        read then), None if unknown (letters, numbers and numerals are read). What is the label of
        one option and the text of another is the label if the prompt had labels, else the text.
    """
    text = SPECIAL_TOKEN.sub(" ", text).strip()
    for texts in dict.fromkeys((tuple(options), tuple(option_wordings({"options": options})))):
        for said in dict.fromkeys(
            (text, *(lead.sub("", text, count=1).strip() for lead in LEAD_INS))
        ):
            index = _stated(said, texts, labels)
            if index is not None:
                return index
            if any(_contradicts(said, texts, names) for names in _label_sets(labels)):
                return None
    letters = len(options) if labels or _tell_from_texts(ascii_uppercase, options) else 0
    return named_option(text, letters, options)


def _stated(said: str, options: Sequence[str], labels: Sequence[str] | None) -> int | None:
    """The option named by nothing but a label, a text, or both."""
    readings: list[tuple[Reader, Sequence[str]]] = [(_label, labels)] if labels else []
    readings.append((lambda text, options, _: _only_same(text, options), ()))
    for names in _label_sets(labels):
        readings.append((_label_before_text, names))
        if labels or _tell_from_texts(names, options):
            readings.append((_bare_label, names))
    found = (read(said, options, names) for read, names in readings)
    return next((index for index in found if index is not None), None)


def _label_sets(labels: Sequence[str] | None) -> tuple[Sequence[str], ...]:
    """Returns the labels of the prompt, or all that it may have had."""
    if labels:
        return (labels,)
    return (ascii_uppercase,) if labels is not None else tuple(names for names, _ in LABEL_SETS)


def _tell_from_texts(labels: Sequence[str], options: Sequence[str]) -> bool:
    """Whether no option is of the kind of the labels, so that a bare one can only be a label."""
    if any(label.isdecimal() for label in labels):
        return not any(character.isdecimal() for option in options for character in option)
    known = {label.casefold() for label in labels}
    return not any(folded(option).strip(" .").casefold() in known for option in options)


def _label(said: str, options: Sequence[str], labels: Sequence[str]) -> int | None:
    """The option of a label as the prompt had it, alone or before the option's own text."""
    text = folded(said).strip()
    for index, (label, option) in enumerate(zip(labels, options, strict=False)):
        if re.fullmatch(_BEFORE_LABEL + re.escape(label) + _AFTER_LABEL, text):
            return index
        if any(_same(rest, option) for rest, _ in _after_label(said, label)):
            return index
    return None


def _bare_label(said: str, options: Sequence[str], labels: Sequence[str]) -> int | None:
    """The option of a label without other text, in either case; also one in a circle."""
    text = unicodedata.normalize("NFKC", folded(said)).strip()
    for index, label in enumerate(labels[: len(options)]):
        bare = _BEFORE_LABEL + re.escape(label) + _AFTER_LABEL
        if re.fullmatch(bare, text, re.IGNORECASE):
            return index
    return None


def _label_before_text(said: str, options: Sequence[str], labels: Sequence[str]) -> int | None:
    """The option of a label, in either case, before its own text; "1.5" is no "5" with a label."""
    for index, (label, option) in enumerate(zip(labels, options, strict=False)):
        for rest, _ in _after_label(said, label):
            number = label.isdecimal() and said[0].isdecimal() and rest[0] in "+-.0123456789"
            if not number and _same(rest, option):
                return index
    return None


def _contradicts(said: str, options: Sequence[str], labels: Sequence[str]) -> bool:
    """Whether a label precedes the text of another option."""
    return any(
        set_off and _only_same(rest, options) not in (None, index)
        for index, label in enumerate(labels[: len(options)])
        for rest, set_off in _after_label(said, label)
    )


def _after_label(said: str, label: str) -> Iterator[tuple[str, bool]]:
    """Yields the rest after a label at the start, and whether a marker sets it off."""
    for marker in _MARKERS:
        opening = marker % label
        rest = said[len(opening) :]
        set_off = opening != label
        begins = said[: len(opening)].casefold() == opening.casefold()
        if begins and rest.strip() and (set_off or rest[0].isspace()):
            yield rest, set_off


def _only_same(text: str, options: Sequence[str]) -> int | None:
    """The only option with the same text, first to the letter, then by its words."""
    for level in _LEVELS:
        said = level(text)
        same = [index for index, option in enumerate(options) if said and level(option) == said]
        if same:
            return same[0] if len(same) == 1 else None
    return None


def _same(text: str, option: str) -> bool:
    return any(level(text) == level(option) for level in _LEVELS)


_LEVELS: tuple[Callable[[str], object], ...] = (
    str.strip,
    lambda text: words(text, articles=True, case=True),
    lambda text: words(text, articles=True),
    words,
)
