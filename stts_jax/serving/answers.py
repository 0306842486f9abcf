"""The text of an answer as it comes from the engine's thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Literal

from stts_jax.data.text.pieces import without_incomplete
from stts_jax.data.text.tokenizer import Tokenizer
from stts_jax.inference.engine.requests import EngineClosedError, Handle
from stts_jax.serving.errors import ServingError, closing


class Answer:
    """One answer.

    Attributes:
      handle: of the engine, set once the request is in its queue.
      text: so far.
      finish_reason: `stop` or `length`; None while it goes on.
    """

    handle: Handle

    def __init__(self, tokenizer: Tokenizer, stop: tuple[str, ...] = ()) -> None:
        """Starts empty.

        Args:
          tokenizer: of the model.
          stop: texts that end the answer, which they are no part of.
        """
        self._tokenizer, self._stop = tokenizer, stop
        self._changed = asyncio.Event()
        self._tokens: list[int] = []
        self._given_up = False
        self.text = ""
        self.finish_reason: Literal["stop", "length"] | None = None

    @property
    def count(self) -> int:
        """Returns the tokens of the answer so far."""
        return len(self._tokens)

    def listener(self, loop: asyncio.AbstractEventLoop) -> Callable[[Handle], None]:
        """Returns what the engine calls when there is more."""

        def tell(handle: Handle) -> None:
            if self._given_up:
                handle.cancel()
            try:
                loop.call_soon_threadsafe(self._changed.set)
            except RuntimeError:  # the server has stopped: nobody waits
                handle.cancel()

        return tell

    def give_up(self) -> None:
        """Cancels the request, also if it is only on its way into the queue."""
        self._given_up = True

    async def pieces(self) -> AsyncIterator[str]:
        """Yields the text piece by piece; gives the request up if nobody waits for more.

        Raises:
          ServingError: if the engine could not answer.
        """
        try:
            while self.finish_reason is None:
                await self._changed.wait()
                self._changed.clear()
                piece = self._advance()
                if piece:
                    yield piece
        finally:
            self.handle.cancel()

    async def whole(self) -> str:
        """Returns the text when it is complete; raises what `pieces` does."""
        return "".join([piece async for piece in self.pieces()])

    def _advance(self) -> str:
        """Takes the tokens that have come; returns the text that is new and certain."""
        handle = self.handle
        ended = handle.finish_reason  # before the tokens: none come after it
        self._tokens = handle.so_far()
        if ended in ("failed", "cancelled"):
            raise _failure(handle)
        text = self._tokenizer.decode(self._tokens)
        stops = [text.find(each) for each in self._stop if each in text]
        if stops:
            text, self.finish_reason = text[: min(stops)], "stop"
        elif ended is not None:
            self.finish_reason = "stop" if ended == "stop" else "length"
        else:
            text = self._certain(text)
        piece = text[len(self.text) :]
        self.text = text if piece else self.text
        return piece

    def _certain(self, text: str) -> str:
        """Returns the part of a text that no further token changes or makes a stop of."""
        text = without_incomplete(text)
        held = max(
            (n for stop in self._stop for n in range(1, len(stop)) if text.endswith(stop[:n])),
            default=0,
        )
        return text[: len(text) - held]


def _failure(handle: Handle) -> ServingError:
    try:
        handle.result(0)
    except EngineClosedError:
        return closing()
    except Exception:  # its traceback is in the log; a client isn't told what failed inside
        return ServingError("the answer failed; ask again", 500, "failed")
    return ServingError("the request was given up", 499, "cancelled")
