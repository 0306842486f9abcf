"""Parts of prompts: the row of media, and the tokens of the messages after it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stts_jax.budget import Budget, video_budget
from stts_jax.config import Config, PruneConfig
from stts_jax.data.chains import chain_of
from stts_jax.data.datasets.base import SourceExample
from stts_jax.data.evaluation_batches import batch_of, scaled_frames
from stts_jax.data.example_chain import ExampleChain
from stts_jax.data.media import Media
from stts_jax.data.video.reading import Video
from stts_jax.evaluation.asked import Asked
from stts_jax.inference.engine.requests import MediaRow, Request
from stts_jax.size_buckets import TEXT_STEP, at_bucket

Turns = tuple[tuple[str, str], ...]


def is_text_alone(media: Media) -> bool:
    """Returns whether there is nothing to look at."""
    return media.video is None and not media.images


def media_row(chain: ExampleChain, source: SourceExample, media: Media, budget: Budget) -> MediaRow:
    """Returns the row of media before all questions.

    Args:
      chain: of the run, with the ratio that is wanted.
      source: the example of the media; what it asks is not read.
      media: its loaded files.
      budget: that rows have so far; it grows where this one needs more.
    """
    arrays, model = chain.before_questions(source, media), chain.model
    batch, budget = batch_of([arrays], budget, model, 1)
    return MediaRow(batch, budget, at_bucket(model))


def asking(
    config: Config,
    source: SourceExample,
    question: str,
    options: Sequence[str] = (),
    earlier: Turns = (),
    answer: str | None = None,
) -> SourceExample:
    """Returns the example of the same media that asks something, worded as the run's are.

    Args:
      config: of the run.
      source: the example of the media.
      question: text; special tokens in it are text like any other.
      options: to choose the answer from, if any.
      earlier: questions and answers before, of the same conversation.
      answer: that the example has; a prompt doesn't show it.

    Raises:
      OwnDataError: if a file of own data couldn't say so.
    """
    is_video = source.video is not None
    asked = Asked(
        Path("-") if is_video else None,
        question,
        tuple(options),
        () if is_video else (Path("-"),),
        subtitle="-" if source.subtitle else None,
        earlier=earlier,
    )
    annotations = asked.example(config, answer).annotations
    return dataclasses.replace(source, annotations=annotations, literal=True)


def message_tokens(chain: ExampleChain, source: SourceExample, media: Media) -> list[list[int]]:
    """Returns the token ids of each message after the media, in turn; the last one asks.

    Of text alone BOS is the first, as nothing was read before.

    Args:
      chain: of the run.
      source: see `asking`.
      media: its loaded files.
    """
    messages = chain.questions(source, 0, media)
    if is_text_alone(media):
        messages[0].insert(0, chain.tokenizer.bos_id)
    return messages


@dataclass(frozen=True)
class RequestMaker:
    """Makes the engine's requests of media and questions, in a few size buckets.

    Attributes:
      config: of the run.
      chain: of the run, with frames up to the last bucket.
      frames: size buckets of videos, ascending.
    """

    config: Config
    chain: ExampleChain
    frames: tuple[int, ...]

    @staticmethod
    def of(config: Config, frames_scale: float = 1.0) -> RequestMaker:
        """Returns the maker of a run's requests, with buckets of a quarter, a half and all frames.

        Args:
          config: of the run.
          frames_scale: times `data.max_frames` frames are taken at most.
        """
        most = scaled_frames(config.data, frames_scale)
        frames = tuple(sorted({max(1, -(-most // part)) for part in (4, 2, 1)}))
        return RequestMaker(config, chain_of(config, max_frames=most), frames)

    def at(self, prune: PruneConfig) -> RequestMaker:
        """Returns the maker of requests with another ratio, threshold or method."""
        model = dataclasses.replace(self.chain.model, prune=prune)
        config = dataclasses.replace(self.config, model=model)
        return RequestMaker(config, dataclasses.replace(self.chain, model=model), self.frames)

    def media_row(self, source: SourceExample, media: Media) -> MediaRow | None:
        """Returns the row of media, None for text alone; see `media_row`."""
        if is_text_alone(media):
            return None
        count = len(media.video.frames) if media.video is not None else self.frames[-1]
        frames = next((each for each in self.frames if each >= count), self.frames[-1])
        return media_row(self.chain, source, media, self._budget(frames))

    def blank_rows(self) -> list[MediaRow]:
        """Returns a row of each bucket of frames with black frames, to compile for them."""
        source, size = SourceExample(({},), video=Path("-")), self.chain.model.vit.image_size
        rows = []
        for count in self.frames:
            times = np.arange(count) / self.config.data.fps
            video = Video(np.zeros((count, size, size, 3), np.uint8), times)
            row = self.media_row(source, Media(video=video))
            assert row is not None
            rows.append(row)
        return rows

    def request(
        self,
        source: SourceExample,
        media: Media,
        row: MediaRow | None,
        question: str,
        *,
        options: Sequence[str] = (),
        earlier: Turns = (),
        max_new_tokens: int | None = None,
    ) -> Request:
        """Returns a greedy request; `dataclasses.replace` changes how tokens are chosen.

        Args:
          source: the example of the media.
          media: its loaded files.
          row: of `media_row`, made once for all questions.
          question, options, earlier: see `asking`.
          max_new_tokens: by default `eval.max_new_tokens`.

        Raises:
          OwnDataError, FormatterError, MessageError: if it can't be asked.
        """
        asked = asking(self.config, source, question, options, earlier)
        messages = message_tokens(self.chain, asked, media)
        tokens = [token for message in messages for token in message]
        longest = self.config.eval.max_new_tokens if max_new_tokens is None else max_new_tokens
        return Request(tuple(tokens), row, longest, seed=self.config.train.seed)

    def _budget(self, frames: int) -> Budget:
        model = at_bucket(self.chain.model)
        return video_budget(model, frames=frames, videos=1, text_tokens=TEXT_STEP)
