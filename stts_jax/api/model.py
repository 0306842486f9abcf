"""A model that answers questions about videos, pictures and text."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, cast, overload

from stts_jax.api.errors import UsageError
from stts_jax.api.many import ask_all, paired
from stts_jax.api.media import (
    ImageLike,
    VideoLike,
    clip_of,
    is_given,
    is_many,
    pictures_of,
    subtitle_of,
    video_of,
)
from stts_jax.api.opened_video import OpenVideo
from stts_jax.api.questions import History, Question
from stts_jax.api.settings import Prune, asked_with
from stts_jax.config import Config, ModelConfig
from stts_jax.data.chains import chain_of
from stts_jax.data.example_chain import ExampleChain
from stts_jax.evaluation.asked import Asked
from stts_jax.evaluation.compilations import Compilations
from stts_jax.evaluation.opened_media import open_media
from stts_jax.model.video_language_model import VideoLanguageModel
from stts_jax.parallel.parameters import count_parameters

Clip = tuple[float, float]
# Chains that are remembered: one for each ratio, count of frames and rate that was asked for.
_MOST_CHAINS = 32


class Model:
    """A model that answers questions; made by `stts_jax.load`.

    Any number of threads may ask; one is answered at a time.

    Attributes:
      config: of the run, with the settings it was loaded with.
      module: its parameters, a Flax NNX module.
      checkpoint: folder of the step that was loaded; None for a model made in memory, or read
        where it is from a folder of another form.
    """

    def __init__(
        self,
        module: VideoLanguageModel,
        config: Config,
        name: str,
        notice: Callable[[str], None],
        checkpoint: Path | None = None,
    ) -> None:
        self.config = config
        self.module = module
        self.checkpoint = checkpoint
        self._name = name
        self._compilations = Compilations(notice)
        self._lock = threading.RLock()
        self._chains: dict[tuple[ModelConfig, Any], ExampleChain] = {}

    def __repr__(self) -> str:
        prune = self.config.model.prune
        drops = "what scores low" if prune.threshold else f"{100 * prune.topk:g} %"
        return f"Model({self._name!r}, {self.parameters:,} parameters, drops {drops} of a video)"

    @property
    def parameters(self) -> int:
        """Returns the number of its parameters."""
        return count_parameters(self.module)

    @overload
    def ask(
        self,
        video: VideoLike | None = ...,
        question: str | None = ...,
        *,
        images: Sequence[ImageLike] = ...,
        options: Sequence[str] | None = ...,
        prune: Prune = ...,
        frames: int | None = ...,
        fps: float | None = ...,
        clip: Clip | None = ...,
        subtitle: str | os.PathLike[str] | None = ...,
        history: History = ...,
        max_new_tokens: int | None = ...,
        stream: Literal[False] = ...,
    ) -> str: ...

    @overload
    def ask(
        self,
        video: list[Any] | tuple[Any, ...],
        question: str | list[str] | tuple[str, ...],
        *,
        options: Sequence[str] | None = ...,
        prune: Prune = ...,
        frames: int | None = ...,
        fps: float | None = ...,
        max_new_tokens: int | None = ...,
    ) -> list[str]: ...

    @overload
    def ask(
        self,
        video: VideoLike,
        question: list[str] | tuple[str, ...],
        *,
        options: Sequence[str] | None = ...,
        prune: Prune = ...,
        frames: int | None = ...,
        fps: float | None = ...,
        max_new_tokens: int | None = ...,
    ) -> list[str]: ...

    @overload
    def ask(
        self,
        video: VideoLike | None = ...,
        question: str | None = ...,
        *,
        images: Sequence[ImageLike] = ...,
        prune: Prune = ...,
        frames: int | None = ...,
        fps: float | None = ...,
        clip: Clip | None = ...,
        subtitle: str | os.PathLike[str] | None = ...,
        history: History = ...,
        max_new_tokens: int | None = ...,
        stream: Literal[True],
    ) -> Iterator[str]: ...

    def ask(
        self,
        video: Any = None,
        question: Any = None,
        *,
        images: Sequence[ImageLike] = (),
        options: Sequence[str] | None = None,
        prune: Prune = None,
        frames: int | None = None,
        fps: float | None = None,
        clip: Clip | None = None,
        subtitle: str | os.PathLike[str] | None = None,
        history: History = (),
        max_new_tokens: int | None = None,
        stream: bool = False,
    ) -> Any:
        """Returns the answer to a question about a video, about pictures, or about neither.

        >>> answer = model.ask(clip, "What falls?", prune=0.5)
        >>> frames = np.zeros((4, 48, 64, 3), np.uint8)
        >>> answers = model.ask([clip, frames], "What falls?")
        >>> len(answers)
        2
        >>> "".join(model.ask(clip, "What falls?", stream=True)) == model.ask(clip, "What falls?")
        True
        >>> model.ask(images=[frames[0]], question="Is it dark?", options=["yes", "no"]) in "yes no"
        True

        Questions of other lengths share programs, in steps of 64 tokens; a line says when one is
        compiled. To ask several things about one video, `open` it.

        Args:
          video: path or bytes of a file, frames (T, H, W, 3) uint8, or a list of these: then each
            has an answer, to its own question where there is a list of questions too.
          question: a text, or a list of them.
          images: instead of a video: paths, bytes, arrays (H, W, 3) uint8, or Pillow's.
          options: to choose the answer from: the one that is most likely as an answer.
          prune: share of a video's tokens to drop, from 0 to below 1, or `"auto"`: those that score
            below a threshold that `stts calibrate` has found for `model.prune.topk`, the share of
            all videos' tokens. By default as the model was trained.
          frames: taken of a video, at most; by default `data.max_frames`.
          fps: frames per second that are taken of a file at most, and those of an array; by default
            `data.fps`.
          clip: first and last second of a file that are shown.
          subtitle: of the video, a text or a .srt or .vtt file.
          history: questions and answers before, `[("What falls?", "a ball")]`.
          max_new_tokens: tokens of the answer at most, by default `eval.max_new_tokens`.
          stream: return the answer piece by piece.

        Raises:
          UsageError: if an argument can't be used.
          VideoError, ImageError: if a file can't be read.
          ConfigError: if a setting can't have that value, or memory can't hold the question.
        """
        if is_many(video) or is_many(question):
            if any(map(is_given, (stream, images, clip, subtitle, history))):
                raise UsageError(
                    "stream, images, clip, subtitle and history go with one question; leave them "
                    "out, or ask one at a time"
                )
            config = asked_with(self.config, prune, frames, fps, max_new_tokens, self.checkpoint)
            if not is_many(video):
                for each in question:
                    Question.of(each, options, ())
                asked = _asked(config, video, (), None, None)
                return self._open(asked, config).ask(question, options=options)
            return self._ask_all(paired(video, question), options, config)
        Question.of(question, options, history, stream)
        config = asked_with(self.config, prune, frames, fps, max_new_tokens, self.checkpoint)
        asked = _asked(config, video, images, clip, subtitle)
        return self._open(asked, config).ask(
            question, options=options, history=history, stream=cast(Any, stream)
        )

    def open(
        self,
        video: VideoLike | None = None,
        *,
        images: Sequence[ImageLike] = (),
        prune: Prune = None,
        frames: int | None = None,
        fps: float | None = None,
        clip: Clip | None = None,
        subtitle: str | os.PathLike[str] | None = None,
    ) -> OpenVideo:
        """Reads, prunes and prefills a video once, to be asked about many times.

        >>> video = model.open(clip, prune=0.7)
        >>> video.visual_tokens
        (16, 5)

        Arguments and errors are those of `ask`.
        """
        config = asked_with(self.config, prune, frames, fps, None, self.checkpoint)
        asked = _asked(config, video, images, clip, subtitle)
        if asked.video is None and not asked.images:
            raise UsageError("there is nothing to open; give a video, or images=[...]")
        return self._open(asked, config)

    def _open(self, asked: Asked, config: Config) -> OpenVideo:
        asked.require_valid()
        asked.require_files()
        with self._lock:
            opened = open_media(
                self.module,
                config,
                asked,
                chain=self._chain(config),
                compilations=self._compilations,
            )
        return OpenVideo(opened, self._lock, _name_of(asked))

    def _ask_all(
        self,
        pairs: Sequence[tuple[Any, str]],
        options: Sequence[str] | None,
        config: Config,
    ) -> list[str]:
        questions = [Question.of(question, options, ()) for _, question in pairs]
        asked = [
            _asked(config, video, (), None, None, question)
            for (video, _), question in zip(pairs, questions, strict=True)
        ]
        for each in asked:
            each.require_files()
        with self._lock:
            return ask_all(self.module, config, asked, self._chain(config), self._compilations)

    def _chain(self, config: Config) -> ExampleChain:
        """Returns the chain of a configuration, which reads media and makes tokens."""
        key = (config.model, config.data)
        if key not in self._chains:
            if len(self._chains) >= _MOST_CHAINS:
                self._chains.clear()
            known = next(iter(self._chains.values()), None)
            tokenizer = None if known is None else known.tokenizer
            self._chains[key] = chain_of(config, tokenizer=tokenizer, remember=False)
        return self._chains[key]


def _asked(
    config: Config,
    video: Any,
    images: Sequence[ImageLike],
    clip: Clip | None,
    subtitle: str | os.PathLike[str] | None,
    question: Question | None = None,
) -> Asked:
    """Returns what is asked about, as a line of own data says it."""
    pictures = pictures_of(images)
    if video is not None and pictures:
        raise UsageError("there are a video and images too; leave one of them out")
    clip, subtitle = clip_of(clip), subtitle_of(subtitle)
    text, options = ("", ()) if question is None else (question.text, question.options)
    if video is None:
        return Asked(None, text, options, pictures, clip, subtitle)
    path, stored = video_of(video, config.data.fps, config.data.max_frames)
    return Asked(path, text, options, (), clip, subtitle, stored)


def _name_of(asked: Asked) -> str:
    if asked.video is not None:
        return f"'{asked.video}'"
    return f"{len(asked.images)} pictures" if asked.images else "text"
