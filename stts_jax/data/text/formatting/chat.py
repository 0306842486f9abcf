"""The chat form around messages."""

from __future__ import annotations

from collections.abc import Sequence

from stts_jax.data.text.formatting.fields import checked_text
from stts_jax.data.text.formatting.settings import FormatterSettings


def wrap_messages(messages: Sequence[str], settings: FormatterSettings) -> list[str]:
    """Messages (user, assistant, user, ...) with roles marked; joined they are the conversation.

    In the "qwen3" form a later user turn closes the answer before it. That answer also ends in its
    own end token after tokenisation, so two of them follow each other, as weights were trained
    (Source: docs/reference.md#chat). There is no system turn.
    """
    wrap = _qwen3 if settings.message_format == "qwen3" else _spaced
    return [
        wrap(checked_text(message, f"message {index}"), index, settings)
        for index, message in enumerate(messages)
    ]


def _qwen3(message: str, index: int, settings: FormatterSettings) -> str:
    if index % 2 == 1:
        return message
    close = "<|im_end|>\n" if index else ""
    return f"{close}<|im_start|>user\n{message}<|im_end|>\n<|im_start|>assistant\n"


def _spaced(message: str, index: int, settings: FormatterSettings) -> str:
    if settings.message_format == "role" and index % 2 == 0:
        message = f"User: {message} Assistant:"
    if index or settings.always_start_with_space:
        message = f" {message}"
    return message
