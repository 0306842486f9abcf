"""Quotes values of users' files in messages, shortened."""

from __future__ import annotations

from typing import Any

SHOWN_CHARACTERS = 80


def shown(value: Any) -> str:
    """Returns the start of a value as Python writes it; a text may be millions of letters long.

    Raises:
      RecursionError: if it is nested too deeply to be written.
    """
    text = repr(value[: 10 * SHOWN_CHARACTERS] if isinstance(value, str) else value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."
