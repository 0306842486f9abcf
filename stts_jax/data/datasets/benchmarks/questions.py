"""Shared by the benchmarks: the wording of multiple choice, and its examples.

The wordings are those that released models were evaluated with. Source:
docs/reference.md#benchmarks.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stts_jax.data.datasets.base import DatasetError, SourceExample, Subtitles

# Styles whose question is shown as it is, without templates and without a tag before it.
STYLE = "video_eval_multiple_choice"
STYLE_WITH_SUBTITLE = "video_eval_multiple_choice_w_subtitle"

RESPOND_WITH_LETTER = "Please respond with only the letter of the correct answer."
ANSWER_WITH_LETTER = "Answer with the option's letter from the given choices directly."


def letter(index: int) -> str:
    """Returns the letter of an index from 0, which is A."""
    return string.ascii_uppercase[index]


def lettered(options: Sequence[Any]) -> list[str]:
    """The options as `A. text`, `B. text`, ..."""
    return [f"{letter(index)}. {option}" for index, option in enumerate(options)]


def letter_of(answer: Any, options: Sequence[Any], where: str) -> str:
    """The letter of the option that is the answer.

    Args:
      answer: text of an option.
      options: texts.
      where: what it is the answer of, for the error.

    Raises:
      DatasetError: if no option is the answer.
    """
    if answer not in options:
        raise DatasetError(
            f"{where}: the answer {answer!r} is not one of the options {list(options)!r}; "
            "download the annotations again"
        )
    return letter(options.index(answer))


def joined(question: str, options: Sequence[str], instruction: str) -> str:
    """Question, options and instruction, one below the other."""
    return "\n".join([question, "\n".join(options), instruction])


def asked(
    video: Path,
    question: str,
    answer: str | None,
    metadata: Mapping[str, Any],
    *,
    style: str = STYLE,
    clip: tuple[float, float] | None = None,
    subtitle: str | Subtitles | None = None,
) -> SourceExample:
    """The example of a question; its answer, if it is published, is in the metadata too."""
    known = {} if answer is None else {"answer": answer}
    return SourceExample(
        annotations=({"style": style, "question": question, **known},),
        video=video,
        clip=clip,
        subtitle=subtitle,
        metadata={**known, **metadata},
    )
