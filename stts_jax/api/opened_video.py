"""A video that is opened once and asked often."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, overload

import numpy as np
import PIL.Image

from stts_jax.api.conversation import Conversation
from stts_jax.api.errors import UsageError
from stts_jax.api.media import is_many
from stts_jax.api.questions import History, Question
from stts_jax.api.settings import asked_with
from stts_jax.evaluation.opened_media import OpenedMedia
from stts_jax.evaluation.overlay import contact_sheet


@dataclass(frozen=True, eq=False)
class Kept:
    """The tokens of a video that stayed.

    Attributes:
      masks: (T, P) bool, the tokens of each frame that stayed, row by row.
      scores: (T, P) float32 in [0, 1], by which they were selected.
      times: (T,) float64, seconds of the frames; of pictures their numbers.
    """

    masks: np.ndarray
    scores: np.ndarray
    times: np.ndarray

    @property
    def share(self) -> float:
        """Returns the share of the tokens that stayed."""
        return float(self.masks.mean())

    def __repr__(self) -> str:
        return f"Kept({self.masks.sum()} of {self.masks.size} tokens of {len(self.times)} frames)"


class OpenVideo:
    """A video, or pictures, that were read, pruned and prefilled: a question costs its own text.

    Made by `Model.open`. Any number of threads may ask; one is answered at a time.
    """

    def __init__(self, opened: OpenedMedia, lock: threading.RLock, name: str) -> None:
        self._opened: OpenedMedia | None = opened
        self._lock = lock
        self._name = name

    @overload
    def ask(
        self,
        question: str,
        *,
        options: Sequence[str] | None = ...,
        history: History = ...,
        max_new_tokens: int | None = ...,
        stream: Literal[False] = ...,
    ) -> str: ...

    @overload
    def ask(
        self,
        question: list[str] | tuple[str, ...],
        *,
        options: Sequence[str] | None = ...,
        history: History = ...,
        max_new_tokens: int | None = ...,
        stream: Literal[False] = ...,
    ) -> list[str]: ...

    @overload
    def ask(
        self,
        question: str,
        *,
        history: History = ...,
        max_new_tokens: int | None = ...,
        stream: Literal[True],
    ) -> Iterator[str]: ...

    def ask(
        self,
        question: str | list[str] | tuple[str, ...],
        *,
        options: Sequence[str] | None = None,
        history: History = (),
        max_new_tokens: int | None = None,
        stream: bool = False,
    ) -> str | list[str] | Iterator[str]:
        """Returns the answer to a question about the video.

        >>> with model.open(clip) as video:
        ...     said = video.ask("What falls?")
        ...     side = video.ask("Where?", options=["left", "right"])
        >>> side in ("left", "right")
        True

        Each question is asked for itself; `history` makes it part of a conversation.

        Args:
          question: a text, or a list of them.
          options: to choose the answer from: the one that is most likely as an answer.
          history: questions and answers before, `[("What falls?", "a ball")]`.
          max_new_tokens: tokens of the answer at most, by default `eval.max_new_tokens`.
          stream: return the answer piece by piece.

        Raises:
          UsageError: if the question can't be asked, or the video is closed.
        """
        if is_many(question):
            if stream:
                raise UsageError("stream gives one answer at a time; ask one question")
            several = [Question.of(each, options, history) for each in question]
            return [self._answer(each, max_new_tokens) for each in several]
        asked = Question.of(question, options, history, stream)
        if not stream:
            return self._answer(asked, max_new_tokens)
        with self._lock:
            return self._up_to(max_new_tokens).stream(asked.text, asked.earlier)

    def conversation(self) -> Conversation:
        """Returns a conversation about the video, in which each question sees those before it.

        >>> talk = model.open(clip).conversation()
        >>> answers = [talk.ask("What falls?"), talk.ask("And then?")]
        >>> [question for question, answer in talk.turns]
        ['What falls?', 'And then?']
        """
        return Conversation(self._require_open().conversation(), self._lock)

    @property
    def kept(self) -> Kept:
        """Returns the tokens that stayed, with scores and times.

        >>> model.open(clip, prune=0.5).kept
        Kept(8 of 16 tokens of 4 frames)
        """
        opened = self._require_open()
        keep, scores = opened.selected()
        video = opened.media.video
        times = np.arange(len(keep), dtype=np.float64) if video is None else video.timestamps
        return Kept(keep, scores, times)

    def overlay(self) -> PIL.Image.Image:
        """Returns a picture of all frames, what stayed of them above and the scores below.

        A file is read once more for it. A notebook shows the picture; `save` writes it.

        Raises:
          VideoError, ImageError: if the file is gone or has changed.
        """
        with self._lock:
            kept = self._require_open().kept()
        return contact_sheet(kept.video.frames, kept.video.timestamps, kept.keep, kept.scores)

    @property
    def visual_tokens(self) -> tuple[int, int]:
        """Returns the visual tokens before the drop, and after it."""
        return self._require_open().visual_tokens

    def close(self) -> None:
        """Gives back the memory of the prefix; no further question can be asked of the video.

        A conversation that has begun goes on, and holds its memory.
        """
        with self._lock:
            self._opened = None

    def __enter__(self) -> OpenVideo:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        if self._opened is None:
            return f"OpenVideo({self._name}, closed)"
        before, after = self._opened.visual_tokens
        return f"OpenVideo({self._name}, {after} of {before} visual tokens)"

    def _answer(self, asked: Question, max_new_tokens: int | None) -> str:
        with self._lock:
            return self._up_to(max_new_tokens).ask(asked.text, asked.options, asked.earlier)

    def _up_to(self, max_new_tokens: int | None) -> OpenedMedia:
        """Returns the video, whose answers have at most so many tokens."""
        opened = self._require_open()
        config = asked_with(opened.config, max_new_tokens=max_new_tokens)
        return dataclasses.replace(opened, config=config)

    def _require_open(self) -> OpenedMedia:
        if self._opened is None:
            raise UsageError(f"{self._name} is closed; open it again to ask about it")
        return self._opened
