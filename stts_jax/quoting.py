"""Shortens values in messages to a few hundred letters."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

LIMIT = 200
_DEPTH = 6
# Python refuses to write longer ones in decimal digits.
_LONGEST_INT_BITS = 512
_SHORT_TYPES = (bool, float, complex, type(None), datetime.date, datetime.time)


def shorten(value: Any, limit: int = LIMIT) -> str:
    """Returns `repr(value)`, or the beginning of it and how much is missing.

    Takes little time and memory whatever the value: what is not shown is not looked at, so
    containers may be deep, huge or hold themselves.

    Args:
      value: anything; strings are quoted, as `repr` does.
      limit: letters of the value, at most. What is missing is told in some 20 more.
    """
    text, complete = _shown(value, limit, _DEPTH)
    if complete and len(text) <= limit:
        return text
    return f"{text[:limit]}...{_size(value)}"


def shorten_words(text: str, limit: int = LIMIT) -> str:
    """Returns a message with every word that is longer than `limit` cut short in its middle."""

    def cut(word: re.Match[str]) -> str:
        found = word.group()
        half = (limit - 3) // 2
        return f"{found[:half]}...{found[-half:]}"

    return re.sub(rf"\S{{{limit + 1},}}", cut, text)


def _shown(value: Any, room: int, depth: int) -> tuple[str, bool]:
    """Returns the first `room` or so letters of a value, and whether these are all."""
    if isinstance(value, str | bytes):
        return repr(value[:room]), len(value) <= room
    if isinstance(value, _SHORT_TYPES):
        return repr(value), True
    if isinstance(value, int):
        if value.bit_length() > _LONGEST_INT_BITS:
            return f"a number of about {int(value.bit_length() * 0.30103) + 1} digits", True
        return repr(value), True
    if isinstance(value, PurePath):
        return _shown(str(value), room, depth)
    if isinstance(value, Mapping):
        return _listed("{}", value.items(), len(value), room, depth)
    if isinstance(value, list | tuple | set | frozenset):
        brackets = "[]" if isinstance(value, list) else "()" if isinstance(value, tuple) else "{}"
        return _listed(brackets, value, len(value), room, depth)
    return f"a value of type {type(value).__name__}", True


def _listed(
    brackets: str, items: Iterable[Any], count: int, room: int, depth: int
) -> tuple[str, bool]:
    text, complete = brackets[0], True
    if depth == 0:
        return f"{text}...", count == 0
    for number, item in enumerate(items):
        if len(text) >= room:
            return text, False
        text += ", " if number else ""
        if brackets == "{}" and isinstance(item, tuple):
            key, value = item
            shown, whole = _shown(key, room - len(text), depth - 1)
            text, complete = f"{text}{shown}: ", complete and whole
            item = value
        shown, whole = _shown(item, room - len(text), depth - 1)
        text, complete = text + shown, complete and whole
        if not whole:
            return text, False
    closing = ",)" if brackets == "()" and count == 1 else brackets[1]
    return text + closing, complete


def _size(value: Any) -> str:
    if isinstance(value, str):
        return f" ({len(value)} letters)"
    if isinstance(value, Sequence | Mapping | set | frozenset):
        return f" ({len(value)} entries)"
    return ""
