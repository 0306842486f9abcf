"""Answers whose tokens are handed out as they are chosen."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int

from stts_jax.inference.cpu_cache import decoding_cache
from stts_jax.inference.cpu_programs import jit_to_answer
from stts_jax.inference.decoding import DecodingState, decode_step, first_state
from stts_jax.inference.prefix import Prefix
from stts_jax.inference.questions import read_question
from stts_jax.inference.sampling import Sampling
from stts_jax.model.video_language_model import VideoLanguageModel
from stts_jax.parallel.mesh import mesh_of, on_mesh


def stream_answer(
    model: VideoLanguageModel,
    prefix: Prefix,
    question: Int[np.ndarray, "1 Q"],
    *,
    max_new_tokens: int,
    end_token: int,
    sampling: Sampling,
    key: jax.Array,
) -> Iterator[int]:
    """Yields the tokens of the answer to one question; they are those of `answer_questions`.

    Compiles two programs for the size buckets of prefix and question, and a count of tokens: one
    reads the question, the other chooses a token. The first token is computed before the first
    `next`, so that errors are raised here.

    Args:
      model: that read the prefix.
      prefix: what was read before, one row.
      question: see `question_rows`.
      max_new_tokens, end_token, sampling, key: those of `generate`. The token that ends the answer
        is yielded too.
    """
    mesh = mesh_of(model)
    state = _begin(model, prefix, question, max_new_tokens, end_token, sampling, mesh, key)
    return _tokens(model, state, max_new_tokens, end_token, sampling, mesh)


def _tokens(
    model: VideoLanguageModel,
    state: DecodingState,
    max_new_tokens: int,
    end_token: int,
    sampling: Sampling,
    mesh: Mesh | None,
) -> Iterator[int]:
    for count in range(1, max_new_tokens + 1):
        token = int(state.next_token[0])
        yield token
        if token == end_token or count == max_new_tokens:
            return
        state = _step(model, state, end_token, sampling, mesh)


@partial(jit_to_answer, static_argnums=(3, 4, 5, 6))
def _begin(
    model: VideoLanguageModel,
    prefix: Prefix,
    question: jax.Array,
    max_new_tokens: int,
    end_token: int,
    sampling: Sampling,
    mesh: Mesh | None,
    key: jax.Array,
) -> DecodingState:
    with on_mesh(mesh):
        read = read_question(model, prefix, question, max_new_tokens)
        state = first_state(read, end_token, sampling, key)
        cache = decoding_cache(read.cache, model.llm.blocks, max_new_tokens)
        return dataclasses.replace(state, cache=cache)


@partial(jit_to_answer, static_argnums=(2, 3, 4), donate_argnums=(1,))
def _step(
    model: VideoLanguageModel,
    state: DecodingState,
    end_token: int,
    sampling: Sampling,
    mesh: Mesh | None,
) -> DecodingState:
    with on_mesh(mesh):
        return decode_step(model, state, end_token, sampling)
