"""The part of a model's text that is its answer."""

from __future__ import annotations

from collections import Counter

MARKER = "Answer:"


def clean_answer(text: str) -> str:
    """Returns the text after "Answer:", else the most frequent line, with single spaces.

    The marker must be spelled so, and only the text between the first and the second one is
    taken. Of lines that are as frequent, the first is taken.

    Source: the reference's `VqaEval` (docs/reference.md#metrics).
    """
    text = text.strip()
    if MARKER in text:
        return text.split(MARKER)[1].strip()
    lines = [" ".join(line.split()) for line in text.split("\n")]
    return Counter(lines).most_common(1)[0][0]
