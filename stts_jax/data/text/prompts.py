"""Plain wording: questions unchanged, with options one per line.

Published models learned from many wordings (`stts_jax.data.text.formatting`); a small model that is
trained from nothing learns sooner from one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from stts_jax.data.datasets.base import Annotation, SourceExample

OPTION_INSTRUCTION = "Only return the correct answer option."
CAPTION_REQUEST = "Describe this."
PLAIN_STYLE = "user_qa"  # which puts nothing before its prompts


def question_text(question: str, options: Sequence[str] | None = None) -> str:
    """Returns the user's text: the question, and the options one per line if there are any.

    Source: the reference's form for options without labels (docs/reference.md#multiple-choice).
    """
    if not options:
        return question
    return "\n".join([question, OPTION_INSTRUCTION, *options])


def plainly_worded(source: SourceExample) -> SourceExample:
    """An example of own data whose prompts are its questions."""
    return dataclasses.replace(source, annotations=tuple(map(_plain, source.annotations)))


def _plain(annotation: Annotation) -> dict[str, Any]:
    if "multi_turn_messages" in annotation:
        turns = [_plain(turn) for turn in annotation["multi_turn_messages"]]
        return {"style": PLAIN_STYLE, "multi_turn_messages": turns}
    if "question" not in annotation:
        return {"style": PLAIN_STYLE, "prompt": CAPTION_REQUEST, "answer": annotation["text"]}
    options = annotation.get("options")
    answer = options[annotation["answer_idx"]] if options else annotation.get("answer")
    worded = {"style": PLAIN_STYLE, "prompt": question_text(annotation["question"], options)}
    worded |= {name: annotation[name] for name in ("weight",) if name in annotation}
    return worded if answer is None else {**worded, "answer": answer}
