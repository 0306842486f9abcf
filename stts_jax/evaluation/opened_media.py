"""Images or a video that are opened once and asked about many times."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import jax
import numpy as np

from stts_jax.batch import Batch
from stts_jax.config import Config
from stts_jax.data.chains import chain_of
from stts_jax.data.datasets.base import SourceExample
from stts_jax.data.evaluation_batches import least_budget, scaled_frames
from stts_jax.data.example_chain import ExampleChain
from stts_jax.data.media import Media
from stts_jax.evaluation.asked import Asked
from stts_jax.evaluation.asking import asking, is_text_alone, media_row, message_tokens
from stts_jax.evaluation.single import Kept, answer_tokens, shown
from stts_jax.inference.decoding import decoding_keys
from stts_jax.inference.prefix import Prefix, ReadMedia, empty_prefix, fitted, read_media
from stts_jax.inference.questions import (
    Answered,
    answer_questions,
    closing,
    continued,
    likelihoods_after,
    question_rows,
)
from stts_jax.inference.sampling import Sampling
from stts_jax.model.video_language_model import VideoLanguageModel, reconfigure
from stts_jax.parallel.mesh import mesh_of, put_whole_batch
from stts_jax.parallel.parameters import key_of_seed


@dataclass(frozen=True)
class OpenedMedia:
    """Images or a video, read, pruned and prefilled, or nothing for text alone.

    A question costs the prefill of its own text and the decoding of its answer.

    Attributes:
      model: in the configuration of its size bucket.
      config: of the run, with the model's own configuration.
      source: the example of the media; what it asks is not read.
      chain: makes the tokens of questions.
      media: the loaded files.
      batch: one row, the arrays that were read.
      prefix: of all questions.
      read: what stayed of the media; None for text alone.
      frames_scale: times `data.max_frames` frames were taken.
    """

    model: VideoLanguageModel
    config: Config
    source: SourceExample
    chain: ExampleChain
    media: Media
    batch: Batch
    prefix: Prefix
    read: ReadMedia | None
    frames_scale: float

    @property
    def visual_tokens(self) -> tuple[int, int]:
        """Returns the visual tokens before the drop and after it."""
        before = int((np.asarray(self.batch.token_pooling) >= 0).any(-1).sum())
        return before, 0 if self.read is None else int(self.read.visual[0])

    def kept(self) -> Kept:
        """Returns the tokens that stayed, with their scores; reads the file again to show it."""
        assert self.read is not None, "text alone has no visual tokens"
        video = shown(self.config, self.source, self.batch, self.frames_scale)
        count = len(video.frames)
        keep, scores = (np.asarray(x)[0, :count] for x in (self.read.keep, self.read.scores))
        return Kept(video, keep, scores)

    def ask(self, question: str, options: tuple[str, ...] = ()) -> str:
        """Returns what `single.ask` says of the same media.

        Args:
          question: text.
          options: to choose the answer from, if any.

        Raises:
          OwnDataError, FormatterError, MessageError: if it can't be asked.
        """
        if options:
            return self._chosen(question, options)
        tokens = self._answered(self.prefix, self.tokens_of(question)[-1], 0).tokens[0]
        return self.chain.tokenizer.decode(np.asarray(tokens).tolist())

    def conversation(self) -> Conversation:
        """Returns a conversation that begins with the next question."""
        return Conversation(self, self.prefix)

    def tokens_of(
        self,
        question: str,
        options: tuple[str, ...] = (),
        earlier: tuple[tuple[str, str], ...] = (),
    ) -> list[list[int]]:
        """Returns the token ids of each message after the media; see `asking.message_tokens`."""
        source = asking(self.config, self.source, question, options, earlier)
        return message_tokens(self.chain, source, self.media)

    def _chosen(self, question: str, options: tuple[str, ...]) -> str:
        rows = question_rows([self.tokens_of(question, options)[-1]], self.config.model.llm)
        each = [asking(self.config, self.source, question, options, (), x) for x in options]
        tokens = [answer_tokens(self.chain, source) for source in each]
        likely = likelihoods_after(self.model, self.prefix, rows, tokens)
        return options[int(likely.argmax())]

    def _answered(self, prefix: Prefix, question: list[int], number: int) -> Answered:
        settings = self.config.eval
        return answer_questions(
            self.model,
            prefix,
            question_rows([question], self.config.model.llm),
            max_new_tokens=settings.max_new_tokens,
            end_token=self.chain.tokenizer.eos_id,
            sampling=Sampling(settings.temperature, settings.top_k, settings.top_p),
            key=_key(self.config, number),
        )


@dataclass
class Conversation:
    """Questions about opened media one after the other, each of which sees those before.

    Attributes:
      opened: the media.
      prefix: all that was read and said so far.
      turns: questions and answers so far.
    """

    opened: OpenedMedia
    prefix: Prefix
    turns: list[tuple[str, str]] = field(default_factory=list)
    _closing: list[int] = field(default_factory=list)

    def ask(self, question: str) -> str:
        """Returns the answer to a further question; see `OpenedMedia.ask`."""
        opened, tokenizer = self.opened, self.opened.chain.tokenizer
        # What was said is in the cache already; the last message alone is read.
        earlier = tuple((asked, said or "-") for asked, said in self.turns)
        tokens = opened.tokens_of(question, earlier=earlier)[-1]
        answered = opened._answered(self.prefix, [*self._closing, *tokens], len(self.turns))
        said = np.asarray(answered.tokens[0]).tolist()
        self.prefix, self._closing = continued(answered), closing(said, tokenizer.eos_id)
        self.turns.append((question, tokenizer.decode(said)))
        return self.turns[-1][1]


def open_media(
    model: VideoLanguageModel,
    config: Config,
    opened: Asked | Path | SourceExample,
    frames_scale: float = 1.0,
) -> OpenedMedia:
    """Reads images or a video into the cache; compiles once for a size bucket.

    Args:
      model: as trained.
      config: of the run; its ratio and threshold decide what stays, as they do for `ask`.
      opened: the media, whose question is not read; an example without media for text alone.
      frames_scale: times `data.max_frames` frames are taken.

    Raises:
      VideoError, ImageError, MediaError: if a file can't be read.
      OwnDataError: see `Asked.example`.
      ConfigError: see `reconfigure`.
    """
    opened = Asked(opened) if isinstance(opened, Path) else opened
    source = opened.example(config) if isinstance(opened, Asked) else opened
    chain = chain_of(config, max_frames=scaled_frames(config.data, frames_scale))
    media = chain.load(source)
    row = media_row(chain, source, media, least_budget(config, frames_scale))
    model = reconfigure(model, row.model)
    read, prefix = None, empty_prefix(model)
    if not is_text_alone(media):
        key = decoding_keys(_key(config, 0))[0]
        read = read_media(model, put_whole_batch(row.batch, mesh_of(model)), row.budget, key)
        prefix = fitted(read.prefix)
        read = dataclasses.replace(read, prefix=prefix)
    return OpenedMedia(model, config, source, chain, media, row.batch, prefix, read, frames_scale)


def _key(config: Config, number: int) -> jax.Array:
    """Returns the key of `runner.answer` for its batch of that number."""
    return jax.random.fold_in(key_of_seed(config.train.seed), number)
