"""Prompt text: question, options, and the chat form around them."""

from __future__ import annotations

from collections.abc import Sequence

OPTION_INSTRUCTION = "Only return the correct answer option."


def question_text(question: str, options: Sequence[str] | None = None) -> str:
    """What the user says: the question, and the options one per line if there are any.

    Source: the reference's form for options without labels (DATA 4.3).
    """
    if not options:
        return question
    return "\n".join([question, OPTION_INSTRUCTION, *options])


def user_turn(text: str) -> str:
    """A user's turn and the opening of the answer, Qwen3 chat form without a system turn."""
    return f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"


def timestamp_text(seconds: float, first: bool) -> str:
    """What stands before a frame's patches: its time with one decimal."""
    return f"{seconds:.1f} " if first else f" {seconds:.1f} "
