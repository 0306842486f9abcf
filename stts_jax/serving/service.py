"""From a chat request to a request of the engine, and back to text."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from stts_jax.config import Config, ConfigError
from stts_jax.data.bad_examples import READING_ERRORS
from stts_jax.data.chains import chain_of
from stts_jax.data.datasets.base import SourceExample
from stts_jax.data.media import Media
from stts_jax.data.packing.rows import BudgetError
from stts_jax.data.text.tokenizer import TokenizerError
from stts_jax.evaluation.asking import asking, message_tokens
from stts_jax.inference.engine.engine import Engine
from stts_jax.inference.engine.requests import (
    EngineClosedError,
    MediaRow,
    QueueFullError,
    Request,
    RequestError,
)
from stts_jax.inference.sampling import Sampling
from stts_jax.serving.answers import Answer
from stts_jax.serving.chat_request import ChatRequest, MediaOptions, MediaPart, Prune
from stts_jax.serving.decoding_messages import Job
from stts_jax.serving.decoding_pool import Decoded, DecodingPool
from stts_jax.serving.errors import ServingError, closing, too_busy
from stts_jax.serving.limits import Limits
from stts_jax.serving.media_address import MediaAddresses
from stts_jax.serving.prepared_media import (
    PreparedCache,
    PreparedMedia,
    prepare_pictures,
    prepare_video,
    with_frames,
)
from stts_jax.train_ratios import at_same_ratio

T = TypeVar("T")
# Threads that cut frames into patches and hash rows; more would only wait for the same memory.
_THREADS = 2
# More than tokens of words have; those of spaces and lines alone have more.
_LETTERS_A_TOKEN = 32
_TEXT_ALONE = SourceExample(())


@dataclass(frozen=True)
class Submitted:
    """A request that is in the engine's queue.

    Attributes:
      answer: as it comes.
      row: the media as the model reads them; None for text alone.
      prepared: the media before it was known how many tokens are dropped.
      question_tokens: of all text after the media.
    """

    answer: Answer
    row: MediaRow | None
    prepared: PreparedMedia | None
    question_tokens: int

    @property
    def prompt_tokens(self) -> int:
        """Returns the tokens that the LLM reads: text, and the visual tokens that stay."""
        if self.row is None:
            return self.question_tokens
        ids = self.row.batch.text.input_ids
        before, after = self.visual_tokens
        return self.question_tokens + int((ids >= 0).sum()) - before + after

    @property
    def visual_tokens(self) -> tuple[int, int]:
        """Returns the visual tokens before and after the drop; zeros until they are read."""
        seen = self.answer.handle.media
        return (0, 0) if seen is None else (seen.before, seen.after)


class Service:
    """A model, and all that is between it and its clients.

    Attributes:
      name: of the model, for clients.
      config: of the run.
      engine: that answers.
      limits: on what clients send.
      addresses: says where pictures and videos come from.
      pool: decodes them.
      automatic: the configuration that drops by a threshold on scores; None without one.
    """

    def __init__(
        self,
        name: str,
        config: Config,
        engine: Engine,
        limits: Limits,
        addresses: MediaAddresses,
        pool: DecodingPool,
        automatic: Config | None = None,
    ) -> None:
        """Starts nothing.

        Args:
          name, config, engine, limits, addresses, pool: see above.
          automatic: the configuration with a threshold on scores, if the model has one.
        """
        self.automatic = config if config.model.prune.threshold else automatic
        self.name, self.config, self.engine = name, config, engine
        self.limits, self.addresses, self.pool = limits, addresses, pool
        self.prepared = PreparedCache(limits.prepared_bytes)
        self._chain = chain_of(config)
        self._threads = ThreadPoolExecutor(_THREADS, "stts-prepare")
        self._preparing = 0

    @property
    def sampling(self) -> Sampling:
        """Returns how tokens are chosen where a request doesn't say."""
        own = self.config.eval
        return Sampling(own.temperature, own.top_k, own.top_p)

    async def submit(self, chat: ChatRequest) -> Submitted:
        """Puts a conversation into the engine's queue.

        Raises:
          ServingError: if it can't be answered, or too many wait.
        """
        if chat.model != self.name:
            raise ServingError(
                f"there is no model of that name; this server has '{self.name}'",
                404,
                "model_not_found",
                "model",
            )
        _require_short(chat, self.engine.settings.question_tokens)
        config = self.config_of(chat.options.prune)
        prepared = await self.prepare(chat.media, chat.options) if chat.media else None
        ids = await self._in_thread(partial(self._question, chat, prepared))
        wanted = chat.max_tokens or self.config.eval.max_new_tokens
        length = min(wanted, self.engine.settings.max_new_tokens)
        request = Request(tuple(ids), None, length, chat.sampling or self.sampling, chat.seed)
        return await self._submit(request, config, prepared, chat.stop)

    async def look(self, part: MediaPart, options: MediaOptions) -> Submitted:
        """Has media read without a question: what stays of them is known afterwards.

        Their prefix is kept for the questions that follow.

        Raises:
          ServingError: see `submit`.
        """
        config = self.config_of(options.prune)
        prepared = await self.prepare((part,), options)
        end = self._chain.tokenizer.eos_id
        return await self._submit(Request((end,), None, 1), config, prepared, ())

    async def prepare(self, parts: Sequence[MediaPart], options: MediaOptions) -> PreparedMedia:
        """Returns pictures or a video, decoded, as the model reads them.

        Raises:
          ServingError: if they can't be had or read.
        """
        files = [await self.addresses.get(part.address) for part in parts]
        frames = options.frames or min(self.config.data.max_frames, self.limits.frames)
        fps = options.fps or self.config.data.fps
        kind = parts[0].kind
        key = (kind, frames, fps, *(file.digest for file in files))
        found = self.prepared.get(key)
        if found is not None:
            return found
        decoded: list[Decoded] = []
        for file in files:
            with self.addresses.files.held(file):
                if self.addresses.files.get(file.digest) is None:  # others needed its room
                    raise too_busy("more files come at once than this server keeps; come again")
                job = Job(
                    kind,
                    str(file.path),
                    frames,
                    fps,
                    self.config.model.vit.image_size,
                    self.limits.pixels,
                    self.limits.seconds,
                )
                decoded.append(await self.pool.decode(job))
        chain = with_frames(self._chain, frames, fps)
        if kind == "video":
            prepared = await self._in_thread(partial(prepare_video, decoded[0], chain))
        else:
            prepared = await self._in_thread(partial(prepare_pictures, decoded, chain))
        self.prepared.put(key, prepared)
        return prepared

    def config_of(self, prune: Prune) -> Config:
        """Returns the configuration that a share of the tokens is dropped in.

        Raises:
          ServingError: if this model can't drop so.
        """
        if prune is None:
            return self.config
        if prune == "auto":
            if self.automatic is None:
                raise ServingError(
                    "prune is 'auto', but this model has no threshold for scores; give a share, "
                    "or have the model calibrated (stts calibrate) and the server started again",
                    param="prune",
                )
            return self.automatic
        if prune and self.config.model.prune.method == "none":
            raise ServingError(
                f"prune is {prune:g}, but this model drops nothing; leave it out", param="prune"
            )
        return at_same_ratio(self.config, float(prune))

    def example(self, part: PreparedMedia, prune: Prune = None) -> MediaRow:
        """Returns the row of media, to compile for."""
        return part.row(self.config_of(prune))

    def close(self) -> None:
        """Ends the threads, and removes the files of clients."""
        self._threads.shutdown(cancel_futures=True)
        self.addresses.files.close()

    # ---------------------------------------------------------------------------- on the way

    async def _submit(
        self,
        request: Request,
        config: Config,
        prepared: PreparedMedia | None,
        stop: tuple[str, ...],
    ) -> Submitted:
        row = None
        if prepared is not None:
            row = await self._in_thread(partial(prepared.row, config))
            request = dataclasses.replace(request, media=row)
        answer = Answer(self._chain.tokenizer, stop)
        listener = answer.listener(asyncio.get_running_loop())
        try:
            answer.handle = await self._in_thread(partial(self.engine.submit, request, listener))
        except asyncio.CancelledError:
            answer.give_up()
            raise
        return Submitted(answer, row, prepared, len(request.question))

    def _question(self, chat: ChatRequest, prepared: PreparedMedia | None) -> list[int]:
        """Returns the token ids of all text after the media."""
        source = _TEXT_ALONE if prepared is None else prepared.source
        media = Media() if prepared is None else prepared.media
        asked = asking(self.config, source, chat.question, earlier=chat.earlier)
        messages = message_tokens(self._chain, asked, media)
        return [token for message in messages for token in message]

    async def _in_thread(self, work: partial[T]) -> T:
        """Runs it in a thread; errors that a client can mend are told to it."""
        if self._preparing >= self.limits.waiting:
            raise too_busy("too many requests wait to be read; come again")
        self._preparing += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except QueueFullError as error:
            raise too_busy("too many requests wait for an answer; come again") from error
        except EngineClosedError as error:
            raise closing() from error
        except (RequestError, BudgetError, TokenizerError, ConfigError) as error:
            raise ServingError(str(error)) from error
        except READING_ERRORS as error:
            raise ServingError(str(error).removeprefix("command line: ")) from error
        finally:
            self._preparing -= 1


def _require_short(chat: ChatRequest, tokens: int) -> None:
    """Refuses what can't have so few tokens, before it is made into them.

    That takes seconds for 100,000 letters, and minutes for a million of one kind.

    Raises:
      ServingError: if it is refused.
    """
    letters = len(chat.question) + sum(len(said) for turn in chat.earlier for said in turn)
    most = _LETTERS_A_TOKEN * tokens
    if letters > most or 2 * len(chat.earlier) > tokens:
        raise ServingError(
            f"the conversation has {letters:,} letters in {2 * len(chat.earlier) + 1:,} messages, "
            f"and this server takes {tokens:,} tokens; ask less",
            param="messages",
        )
