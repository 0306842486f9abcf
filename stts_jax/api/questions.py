"""Checks what is asked, before anything is read or computed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from stts_jax.api.errors import UsageError
from stts_jax.quoting import shorten

# Questions and answers before a question.
History = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Question:
    """A question that can be asked.

    Attributes:
      text: of the question.
      options: to choose the answer from, if any.
      earlier: questions and answers before.
    """

    text: str
    options: tuple[str, ...] = ()
    earlier: tuple[tuple[str, str], ...] = ()

    @staticmethod
    def of(
        text: Any, options: Sequence[str] | None, history: History, stream: bool = False
    ) -> Question:
        """Returns the question.

        Raises:
          UsageError: if it can't be asked.
        """
        _require_text(text)
        found = Question(text, _options(options), _earlier(history))
        if found.options and found.earlier:
            raise UsageError("options go with one question; leave out options, or history")
        if found.options and stream:
            raise UsageError("an option is chosen as a whole; leave out stream, or options")
        return found


def _require_text(text: Any) -> None:
    if text is None:
        raise UsageError(
            "there is no question; write ask(video, question), or ask(question=...) for text alone"
        )
    if not isinstance(text, str):
        raise UsageError(f"question is {shorten(text)}, which is no text; write a string")
    if not text.strip():
        raise UsageError(f"question is {text!r}, which asks nothing; write one")


def _options(options: Sequence[str] | None) -> tuple[str, ...]:
    if options is None:
        return ()
    texts = tuple(options) if isinstance(options, Iterable) else ()
    if (
        not texts
        or isinstance(options, str)
        or not all(isinstance(o, str) and o.strip() for o in texts)
    ):
        raise UsageError(
            f"options is {shorten(options)}; give a list of texts, such as ['left', 'right']"
        )
    if len(texts) < 2 or len(set(texts)) < len(texts):
        raise UsageError(f"options is {shorten(options)}; give two or more that are different")
    return texts


def _earlier(history: History) -> tuple[tuple[str, str], ...]:
    if not isinstance(history, Iterable):
        raise UsageError(
            f"history is {shorten(history)}; give pairs of a question and its answer in a list"
        )
    turns = tuple(tuple(turn) if isinstance(turn, list | tuple) else turn for turn in history)
    for turn in turns:
        texts = isinstance(turn, tuple) and len(turn) == 2
        if not texts or not all(isinstance(text, str) and text.strip() for text in turn):
            raise UsageError(
                f"history holds {shorten(turn)}; give pairs of a question and its answer"
            )
    return turns  # type: ignore[return-value]
