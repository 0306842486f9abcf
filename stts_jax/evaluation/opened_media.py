"""Images or a video that are opened once and asked about many times."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from stts_jax.batch import Batch
from stts_jax.config import Config
from stts_jax.data.chains import chain_of
from stts_jax.data.datasets.base import SourceExample
from stts_jax.data.evaluation_batches import batch_of, budget_alone, scaled_frames
from stts_jax.data.example_chain import ExampleChain
from stts_jax.data.media import Media
from stts_jax.data.text.pieces import pieces
from stts_jax.evaluation.asked import Asked
from stts_jax.evaluation.programs import Programs
from stts_jax.evaluation.single import Kept, answer_tokens, shown
from stts_jax.inference.decoding import decoding_keys
from stts_jax.inference.likelihood import padded_answers
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
from stts_jax.inference.streaming import stream_answer
from stts_jax.model.video_language_model import VideoLanguageModel, reconfigure
from stts_jax.parallel.mesh import mesh_of, put_whole_batch
from stts_jax.parallel.parameters import key_of_seed
from stts_jax.size_buckets import at_bucket, without_ratio


@dataclass(frozen=True)
class OpenedMedia:
    """Images or a video, read, pruned and prefilled, or nothing for text alone.

    A question costs the prefill of its own text and the decoding of its answer.

    Attributes:
      model: that reads questions and answers them.
      config: of the run, with the model's own configuration.
      source: the example of the media; what it asks is not read.
      chain: makes the tokens of questions.
      media: the loaded files.
      batch: one row, the arrays that were read.
      prefix: of all questions.
      read: what stayed of the media; None for text alone.
      programs: says what is compiled.
    """

    model: VideoLanguageModel
    config: Config
    source: SourceExample
    chain: ExampleChain
    media: Media
    batch: Batch
    prefix: Prefix
    read: ReadMedia | None
    programs: Programs

    @property
    def visual_tokens(self) -> tuple[int, int]:
        """Returns the visual tokens before the drop and after it."""
        before = int((np.asarray(self.batch.token_pooling) >= 0).any(-1).sum())
        return before, 0 if self.read is None else int(self.read.visual[0])

    def selected(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the (T, P) tokens that stayed, bool, and their float32 scores."""
        assert self.read is not None, "text alone has no visual tokens"
        count = int(self.batch.num_images.max())
        keep, scores = (np.asarray(x)[0, :count] for x in (self.read.keep, self.read.scores))
        return keep, scores

    def kept(self) -> Kept:
        """Returns the tokens that stayed, with their scores; reads the file again to show it."""
        return Kept(shown(self.chain, self.source, self.batch), *self.selected())

    def ask(
        self,
        question: str,
        options: tuple[str, ...] = (),
        earlier: tuple[tuple[str, str], ...] = (),
    ) -> str:
        """Returns what `single.ask` says of the same media.

        Args:
          question: text.
          options: to choose the answer from, if any.
          earlier: questions and answers before.

        Raises:
          OwnDataError, FormatterError, MessageError: if it can't be asked.
        """
        if options:
            return self._chosen(question, options)
        tokens = self._answered(self.prefix, self._after_prefix(question, earlier), 0).tokens[0]
        return self.chain.tokenizer.decode(np.asarray(tokens).tolist())

    def stream(self, question: str, earlier: tuple[tuple[str, str], ...] = ()) -> Iterator[str]:
        """Returns the pieces of the answer that `ask` gives, as they are chosen."""
        rows = question_rows([self._after_prefix(question, earlier)], self.config.model.llm)
        self._expect("streaming", rows, self.prefix, self.config.eval.max_new_tokens)
        tokens = stream_answer(self.model, self.prefix, rows, **self._choosing(0))
        return pieces(self.chain.tokenizer, tokens)

    def conversation(self) -> Conversation:
        """Returns a conversation that begins with the next question."""
        return Conversation(self, self.prefix)

    def tokens_of(
        self,
        question: str,
        options: tuple[str, ...] = (),
        earlier: tuple[tuple[str, str], ...] = (),
    ) -> list[list[int]]:
        """Returns the token ids of each message after the media, in turn; the last one asks.

        Of text alone BOS is the first, as nothing was read before.

        Args:
          question: text.
          options: to choose the answer from.
          earlier: questions and answers before.
        """
        messages = self.chain.questions(self._asking(question, options, earlier), 0, self.media)
        if self.read is None:
            messages[0].insert(0, self.chain.tokenizer.bos_id)
        return messages

    def _asking(
        self,
        question: str,
        options: tuple[str, ...],
        earlier: tuple[tuple[str, str], ...] = (),
        answer: str | None = None,
    ) -> SourceExample:
        """Returns the example of these media that asks this."""
        is_video = self.source.video is not None
        asked = Asked(
            Path("-") if is_video else None,
            question,
            options,
            () if is_video else (Path("-"),),
            subtitle="-" if self.source.subtitle else None,
            earlier=earlier,
        )
        annotations = asked.example(self.config, answer).annotations
        return dataclasses.replace(self.source, annotations=annotations, literal=True)

    def _after_prefix(self, question: str, earlier: tuple[tuple[str, str], ...]) -> list[int]:
        return list(itertools.chain.from_iterable(self.tokens_of(question, (), earlier)))

    def _chosen(self, question: str, options: tuple[str, ...]) -> str:
        rows = question_rows([self.tokens_of(question, options)[-1]], self.config.model.llm)
        each = [self._asking(question, options, answer=option) for option in options]
        tokens = [answer_tokens(self.chain, source) for source in each]
        self._expect("choosing an option", rows, self.prefix, *padded_answers(tokens)[0].shape)
        likely = likelihoods_after(self.model, self.prefix, rows, tokens)
        return options[int(likely.argmax())]

    def _answered(self, prefix: Prefix, question: list[int], number: int) -> Answered:
        rows = question_rows([question], self.config.model.llm)
        self._expect("answering", rows, prefix, self.config.eval.max_new_tokens)
        return answer_questions(self.model, prefix, rows, **self._choosing(number))

    def _choosing(self, number: int) -> dict[str, Any]:
        """Returns how the tokens of answer `number` of a conversation are chosen."""
        settings = self.config.eval
        return {
            "max_new_tokens": settings.max_new_tokens,
            "end_token": self.chain.tokenizer.eos_id,
            "sampling": Sampling(settings.temperature, settings.top_k, settings.top_p),
            "key": _key(self.config, number),
        }

    def _expect(self, what: str, question: np.ndarray, prefix: Prefix, *key: Hashable) -> None:
        sizes = f"up to {question.shape[1]} tokens of text after {prefix.capacity} others"
        self.programs.expect(what, sizes, self.model.config, *key)


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
    *,
    chain: ExampleChain | None = None,
    programs: Programs | None = None,
) -> OpenedMedia:
    """Reads images or a video into the cache; compiles once for a size bucket.

    Args:
      model: as trained.
      config: of the run; its ratio and threshold decide what stays, as they do for `ask`.
      opened: the media, whose question is not read; an example without media for text alone.
      frames_scale: times `data.max_frames` frames are taken.
      chain: of the configuration, if it was made before.
      programs: says what is compiled, and refuses what memory can't hold; by default neither.

    Raises:
      VideoError, ImageError, MediaError: if a file can't be read.
      OwnDataError: see `Asked.example`.
      ConfigError: see `reconfigure`.
    """
    opened = Asked(opened) if isinstance(opened, Path) else opened
    source = opened.example(config) if isinstance(opened, Asked) else opened
    chain = chain or chain_of(config, max_frames=scaled_frames(config.data, frames_scale))
    programs = programs or Programs()
    media = chain.load(source)
    arrays = chain.before_questions(source, media)
    budget = budget_alone(arrays, config, chain.model, frames_scale)
    batch, budget = batch_of([arrays], budget, chain.model, 1)
    # What is asked later is compiled once for all ratios.
    reader, model = (reconfigure(model, of(chain.model)) for of in (at_bucket, without_ratio))
    read, prefix = None, empty_prefix(model)
    if len(arrays["images"]):
        programs.expect_rows("reading what is asked about", reader, config, budget)
        key = decoding_keys(_key(config, 0))[0]
        read = read_media(reader, put_whole_batch(batch, mesh_of(model)), budget, key)
        prefix = fitted(read.prefix)
        read = dataclasses.replace(read, prefix=prefix)
    return OpenedMedia(model, config, source, chain, media, batch, prefix, read, programs)


def _key(config: Config, number: int) -> jax.Array:
    """Returns the key of `runner.answer` for its batch of that number."""
    return jax.random.fold_in(key_of_seed(config.train.seed), number)
