"""Requests to the engine, and handles on their answers."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Literal

import numpy as np

from stts_jax.batch import Batch
from stts_jax.budget import Budget
from stts_jax.config import ModelConfig
from stts_jax.inference.sampling import Sampling

logger = logging.getLogger(__name__)

FinishReason = Literal["stop", "length", "cancelled", "failed"]


class RequestError(ValueError):
    """A request that cannot be answered; the message is one sentence with the remedy."""


class QueueFullError(RuntimeError):
    """The engine has as many requests as it may; the message says to come again."""


class EngineClosedError(RuntimeError):
    """The engine takes no requests any more, or was closed before this one was answered."""


class CancelledError(RuntimeError):
    """The request was cancelled."""


@dataclass(frozen=True)
class MediaRow:
    """Images or a video as the model reads them, before any question.

    Attributes:
      batch: see `Batch`, of NumPy arrays: one row, text of BOS and media alone, with `to_prune`.
      budget: its static sizes, one of a few.
      model: the configuration of its size bucket, see `size_buckets.at_bucket`.
    """

    batch: Batch
    budget: Budget
    model: ModelConfig

    @cached_property
    def digest(self) -> str:
        """Returns a hash of the content, and of all settings that change what stays of it."""
        digest = hashlib.sha256(repr((self.model, self.budget)).encode())
        for name, array in sorted(self.batch.to_arrays().items()):
            digest.update(f"{name}{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


@dataclass(frozen=True)
class Request:
    """A question.

    Attributes:
      question: token ids of all that comes after the media, earlier turns included; without media
        it begins with BOS.
      media: what is asked about; None for text alone.
      max_new_tokens: of the answer.
      sampling: how its tokens are chosen.
      seed: of the random key of sampling, and of method `random`.
    """

    question: tuple[int, ...]
    media: MediaRow | None = None
    max_new_tokens: int = 64
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0


@dataclass(frozen=True)
class SeenMedia:
    """What stayed of the media of a request.

    Attributes:
      before, after: visual tokens before and after the drop.
      keep: (T, P) bool, tokens that stay.
      scores: (T, P) float32.
      cached: whether it had been read before.
    """

    before: int
    after: int
    keep: np.ndarray
    scores: np.ndarray
    cached: bool


@dataclass
class Times:
    """Moments of a request in seconds of `time.monotonic`, None while they are to come.

    Attributes:
      submitted: it entered the queue.
      started: it got a slot.
      first_token: the first token of its answer was chosen.
      finished: nothing more comes.
    """

    submitted: float
    started: float | None = None
    first_token: float | None = None
    finished: float | None = None


class Handle:
    """The answer to a request as it comes; any thread may use it.

    Attributes:
      request: what was asked.
      times: when what happened.
      media: what stayed of its media, once they are read.
    """

    def __init__(self, request: Request, on_change: Callable[[Handle], None] | None = None) -> None:
        """Made by the engine; `on_change` is called by its thread and must return at once."""
        self.request = request
        self.times = Times(time.monotonic())
        self.media: SeenMedia | None = None
        self._on_change = on_change
        self._tokens: list[int] = []
        self._reason: FinishReason | None = None
        self._error: Exception | None = None
        self._cancelled = False
        self._changed = threading.Condition()

    @property
    def finish_reason(self) -> FinishReason | None:
        """Returns why the answer ended: the end token, its length, or else; None if it goes on."""
        return self._reason

    @property
    def count(self) -> int:
        """Returns how many tokens the answer has so far."""
        return len(self._tokens)

    def so_far(self) -> list[int]:
        """Returns the tokens that have come, however the answer ended."""
        with self._changed:
            return list(self._tokens)

    @property
    def cancelled(self) -> bool:
        """Returns whether `cancel` was called."""
        return self._cancelled

    def cancel(self) -> None:
        """Gives the answer up; its slot is free after the step that is under way."""
        self._cancelled = True

    def tokens(self, timeout: float | None = None) -> Iterator[int]:
        """Yields the tokens of the answer as they come, without the one that ends it.

        Args:
          timeout: seconds to wait for the next one, at most.

        Raises:
          TimeoutError: if none came in that time.
          CancelledError, EngineClosedError: if the answer did not end.
          Exception: what the devices raised.
        """
        seen = 0
        while True:
            with self._changed:
                if not self._changed.wait_for(partial(self._has_more, seen), timeout):
                    raise TimeoutError(f"no token came in {timeout} s; wait longer, or cancel")
                new, ended = self._tokens[seen:], self._reason is not None
            yield from new
            seen += len(new)
            if ended and seen == len(self._tokens):
                if self._error is not None:
                    raise self._error
                return

    def result(self, timeout: float | None = None) -> list[int]:
        """Returns all tokens of the answer; waits for its end. Raises what `tokens` does."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._reason is not None, timeout):
                raise TimeoutError(f"no answer came in {timeout} s; wait longer, or cancel")
            if self._error is not None:
                raise self._error
            return list(self._tokens)

    def _has_more(self, seen: int) -> bool:
        return len(self._tokens) > seen or self._reason is not None

    # ------------------------------------------------------------------------ the engine's side

    def start(self, media: SeenMedia | None) -> None:
        """Notes that it has a slot, and what stayed of its media."""
        self.times.started, self.media = time.monotonic(), media

    def add(self, tokens: Sequence[int], end_token: int) -> bool:
        """Adds tokens up to the end of the answer; returns whether it has ended."""
        if self._reason is not None:
            return True
        if self._cancelled:
            self.fail(CancelledError("the request was cancelled"), "cancelled")
            return True
        if self.times.first_token is None:
            self.times.first_token = time.monotonic()
        new = list(tokens)[: self.request.max_new_tokens - len(self._tokens)]
        reason: FinishReason | None = None
        if end_token in new:
            new, reason = new[: new.index(end_token)], "stop"
        elif len(self._tokens) + len(new) >= self.request.max_new_tokens:
            reason = "length"
        with self._changed:
            self._tokens += new
            if reason is not None:
                self.times.finished, self._reason = time.monotonic(), reason
            self._changed.notify_all()
        self._tell()
        return reason is not None

    def fail(self, error: Exception, reason: FinishReason = "failed") -> None:
        """Ends the answer with an error, unless it has ended."""
        if self._reason is not None:
            return
        with self._changed:
            self.times.finished = time.monotonic()
            self._error, self._reason = error, reason
            self._changed.notify_all()
        self._tell()

    def _tell(self) -> None:
        if self._on_change is None:
            return
        try:
            self._on_change(self)
        except Exception:  # of whoever listens; the other requests go on
            logger.exception("a listener of a request failed")
