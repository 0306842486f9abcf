"""The same questions one at a time, without the engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stts_jax.batch import Batch, TextRows
from stts_jax.bench.serving_load import Arrival
from stts_jax.budget import Budget
from stts_jax.inference.cache import KeyValueCache
from stts_jax.inference.cpu_cache import decoding_cache
from stts_jax.inference.cpu_programs import jit_to_answer
from stts_jax.inference.decoding import (
    DecodingState,
    decode_step,
    decoding_keys,
    first_state,
    start_decoding,
)
from stts_jax.inference.engine.requests import MediaRow, Request
from stts_jax.inference.prefix import Prefix, read_media
from stts_jax.inference.questions import question_rows, read_question
from stts_jax.inference.sampling import Sampling
from stts_jax.model.video_language_model import VideoLanguageModel, reconfigure
from stts_jax.parallel.parameters import key_of_seed
from stts_jax.size_buckets import text_room

# No token has this id, so every answer is as long as it was asked to be.
NO_END = -1
Answer = Callable[[Request, int], list[int]]


def whole_prompts(model: VideoLanguageModel, longest: int) -> Answer:
    """Returns a function that answers a request as `ask` does: all of its prompt at once.

    Args:
      model: the model.
      longest: tokens of an answer; one program has room for them, and stops at any number.
    """

    @partial(jit_to_answer, static_argnums=(2,))
    def program(
        model: VideoLanguageModel, batch: Batch, budget: Budget, count: jax.Array, key: jax.Array
    ) -> jax.Array:
        state = start_decoding(model, batch, budget, longest, NO_END, Sampling(), key)
        return _decoded(model, state, longest, count)

    def answer(request: Request, new_tokens: int) -> list[int]:
        media = request.media
        assert media is not None
        own = reconfigure(model, media.model)
        room = text_room(len(request.question))
        budget = replace(
            media.budget,
            tokens=media.budget.tokens + room,
            tokens_before=media.budget.tokens_before + room,
        )
        batch = replace(media.batch, text=_with_question(media, request.question, room))
        said = program(own, batch, budget, np.int32(new_tokens), _key(request))
        return np.asarray(said)[0, :new_tokens].tolist()

    return answer


def opened_media(model: VideoLanguageModel, longest: int) -> Answer:
    """Returns a function that answers a request against a prefix that is read once."""
    prefixes: dict[int, Prefix] = {}

    @jit_to_answer
    def program(
        model: VideoLanguageModel,
        prefix: Prefix,
        question: jax.Array,
        count: jax.Array,
        key: jax.Array,
    ) -> jax.Array:
        read = read_question(model, prefix, question, longest)
        return _decoded(model, first_state(read, NO_END, Sampling(), key), longest, count)

    def answer(request: Request, new_tokens: int) -> list[int]:
        media = request.media
        assert media is not None
        if id(media) not in prefixes:
            own = reconfigure(model, media.model)
            key = decoding_keys(_key(request))[0]
            prefixes[id(media)] = read_media(own, media.batch, media.budget, key).prefix
        question = question_rows([request.question], model.config.llm)
        prefix, count = prefixes[id(media)], np.int32(new_tokens)
        said = program(model, prefix, question, count, _key(request))
        return np.asarray(said)[0, :new_tokens].tolist()

    return answer


def _decoded(
    model: VideoLanguageModel, state: DecodingState, longest: int, count: jax.Array
) -> jax.Array:
    """Does what `decode` does, up to a count that is known when it runs."""
    answers = jnp.zeros((1, longest), jnp.int32).at[:, 0].set(state.next_token)
    assert isinstance(state.cache, KeyValueCache)
    state = replace(state, cache=decoding_cache(state.cache, model.llm.blocks, longest))

    def one(index: jax.Array, carry: tuple[jax.Array, DecodingState]) -> Any:
        answers, state = carry
        state = decode_step(model, state, NO_END, Sampling())
        return answers.at[:, index].set(state.next_token), state

    return jax.lax.fori_loop(1, count, one, (answers, state))[0]


def rate_of(
    answer: Answer, requests: Sequence[Request], asked: Sequence[Arrival]
) -> tuple[float, float]:
    """Returns tokens a second of answers one after the other, and a second of core time."""
    for number in {each.number for each in asked}:  # reads media that are kept
        answer(requests[number], asked[0].new_tokens)
    start, cores = time.perf_counter(), time.process_time()
    tokens = sum(len(answer(requests[each.number], each.new_tokens)) for each in asked)
    return tokens / (time.perf_counter() - start), tokens / (time.process_time() - cores)


def _with_question(media: MediaRow, question: Sequence[int], room: int) -> TextRows:
    """Returns the text of media with a question after it, with `room` for the question."""
    text = media.batch.text
    length = int((text.input_ids[0] >= 0).sum())
    more = np.arange(len(question))
    new = {
        "input_ids": np.array(question),
        "labels": 0 * more,
        "loss_masks": np.zeros(len(question), np.float32),
        "position_ids": text.position_ids[0, length - 1] + 1 + more,
        "subsegment_ids": 0 * more,
    }
    rows = {}
    for name, array in vars(text).items():
        fill = 0 if array.dtype == np.float32 else -1
        rows[name] = np.pad(array, ((0, 0), (0, room)), constant_values=fill)
        rows[name][0, length : length + len(question)] = new[name]
    return TextRows(**rows)


def _key(request: Request) -> jax.Array:
    return jax.random.fold_in(key_of_seed(request.seed), 0)
