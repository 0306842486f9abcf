"""Reading and checking the JSONL form that users write: one question per line.

    {"video": "clips/a.mp4", "question": "What is opened?", "answer": "a door"}

`options` (a list that holds the answer), `type` (a name that results are grouped by) and `id` may
be added. Paths of videos are relative to the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stts_jax.config import SPECIAL_TOKENS

KNOWN_FIELDS = ("video", "question", "answer", "options", "type", "id")


class ExampleError(ValueError):
    """A line that cannot be used; the message names file, line, field, value and remedy."""


@dataclass(frozen=True)
class Question:
    """One question and its answer, the text of an option if there are options."""

    question: str
    answer: str
    options: tuple[str, ...] | None = None
    type: str | None = None
    id: str | None = None


@dataclass(frozen=True)
class Example:
    """A video and the questions asked about it together."""

    video: Path
    questions: tuple[Question, ...]


def read_examples(path: str | Path, questions_per_video: int) -> list[Example]:
    """Read a JSONL file.

    Lines about the same video become one example, in the order of the file; those with more than
    `questions_per_video` questions become several.

    Args:
      path: the file.
      questions_per_video: at most that many questions in an example.

    Raises:
      ExampleError: if the file is missing or empty, or a line is wrong.
    """
    path = Path(path)
    if not path.is_file():
        raise ExampleError(f"'{path}' does not exist; check data.train, .validation and .test")
    grouped: dict[Path, list[Question]] = {}
    for video, question in _read_lines(path):
        grouped.setdefault(path.parent / video, []).append(question)
    if not grouped:
        raise ExampleError(f"'{path}' holds no questions; write one JSON object per line")
    return [
        Example(video, tuple(part))
        for video, questions in grouped.items()
        for part in _split(questions, questions_per_video)
    ]


def _split(questions: Sequence[Question], size: int) -> Iterator[Sequence[Question]]:
    for start in range(0, len(questions), size):
        yield questions[start : start + size]


def _read_lines(path: Path) -> Iterator[tuple[str, Question]]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield _parse(line, f"{path}:{number}")


def _parse(line: str, where: str) -> tuple[str, Question]:
    try:
        values = json.loads(line)
    except ValueError as error:
        raise ExampleError(f"{where}: no JSON ({error}); write one object per line") from error
    if not isinstance(values, dict):
        raise ExampleError(f"{where}: {line.strip()[:40]!r} is no JSON object; write {{...}}")
    for key in values:
        if key not in KNOWN_FIELDS:
            known = ", ".join(KNOWN_FIELDS)
            raise ExampleError(f"{where}: field '{key}' is unknown; use {known}")
    video, question, answer = (_text(values, key, where) for key in KNOWN_FIELDS[:3])
    options = _options(values, answer, where)
    extra = {key: str(values[key]) for key in ("type", "id") if values.get(key) is not None}
    return video, Question(question, answer, options, **extra)


def _text(values: dict[str, Any], key: str, where: str) -> str:
    if key not in values:
        raise ExampleError(f"{where}: field '{key}' is missing; add it")
    return _checked(values[key], key, where)


def _checked(value: Any, key: str, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ExampleError(f"{where}: field '{key}' is {value!r}; it must be text, not empty")
    for token in SPECIAL_TOKENS:
        if token in value:
            raise ExampleError(
                f"{where}: field '{key}' holds '{token}', which stands for visual input; remove it"
            )
    return value


def _options(values: dict[str, Any], answer: str, where: str) -> tuple[str, ...] | None:
    options = values.get("options")
    if options is None:
        return None
    if not isinstance(options, list) or len(options) < 2:
        raise ExampleError(
            f"{where}: field 'options' is {options!r}; it must be a list of two texts or more"
        )
    checked = tuple(_checked(option, "options", where) for option in options)
    if len(set(checked)) < len(checked):
        raise ExampleError(f"{where}: field 'options' has an option twice, {options!r}; remove it")
    if answer not in checked:
        raise ExampleError(
            f"{where}: field 'answer' is {answer!r}, which is none of the options {options!r}; "
            "write the text of an option"
        )
    return checked
