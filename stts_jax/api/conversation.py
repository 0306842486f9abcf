"""Questions about an opened video, one after the other."""

from __future__ import annotations

import threading

from stts_jax.api.errors import UsageError
from stts_jax.api.questions import Question
from stts_jax.evaluation import opened_media


class Conversation:
    """Questions about an opened video, each of which sees those before it and their answers.

    Made by `OpenVideo.conversation`. What was said stays in the cache, so a question costs its own
    text, however long the conversation is.
    """

    def __init__(self, conversation: opened_media.Conversation, lock: threading.RLock) -> None:
        self._conversation = conversation
        self._lock = lock

    @property
    def turns(self) -> list[tuple[str, str]]:
        """Returns questions and answers so far."""
        return list(self._conversation.turns)

    def ask(self, question: str) -> str:
        """Returns the answer to a further question.

        Raises:
          UsageError: if the question can't be asked.
        """
        if not isinstance(question, str):
            raise UsageError("a conversation takes one question at a time; write a string")
        asked = Question.of(question, None, ())
        with self._lock:
            return self._conversation.ask(asked.text)
