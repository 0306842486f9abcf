"""Decoding: prefill once, then one compiled step per token against a cache of static size."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Int

from stts_jax.batch import Batch
from stts_jax.budget import Budget
from stts_jax.inference.cache import KeyValueCache
from stts_jax.inference.cpu_cache import CpuCache, decoding_cache
from stts_jax.inference.cpu_programs import jit_to_answer
from stts_jax.inference.prefill import Prefilled, prefill
from stts_jax.inference.sampling import Sampling, sample
from stts_jax.layers.attention_mask import TokenTable, attention_mask
from stts_jax.model.llm import C
from stts_jax.model.video_language_model import VideoLanguageModel
from stts_jax.model.vision import ScoredFrames
from stts_jax.parallel.mesh import mesh_of, on_mesh
from stts_jax.pytrees import register_pytree


@register_pytree
@dataclass(frozen=True)
class DecodingState:
    """The state between two decoding steps.

    Attributes:
      cache: keys and values so far.
      tokens: the tokens at the cache indices, for the mask; (B, C).
      next_token: (B,) chosen, not yet in the cache.
      position: (B,) rotary position of `next_token`.
      cache_index: () index in the cache of `next_token`.
      finished: (B,) bool.
      key: random key.
    """

    cache: KeyValueCache | CpuCache
    tokens: TokenTable
    next_token: Int[Array, " B"]
    position: Int[Array, " B"]
    cache_index: Int[Array, ""]
    finished: Bool[Array, " B"]
    key: jax.Array


def generate(
    model: VideoLanguageModel,
    batch: Batch,
    budget: Budget,
    *,
    max_new_tokens: int,
    end_token: int,
    sampling: Sampling,
    key: jax.Array,
) -> Int[Array, "B new_tokens"]:
    """Answers every row of a batch of prompts.

    Compiles once for a budget and count of tokens, whatever the content. Stops early when all
    rows have ended.

    Args:
      model: the model; where its parameters are sharded, rows are sharded too, if their count
        allows.
      batch: see `Batch`; prompts only.
      budget: static sizes.
      max_new_tokens: tokens per answer, at most.
      end_token: ends an answer.
      sampling: how tokens are chosen.
      key: for sampling and method `random`.

    Returns:
      (B, max_new_tokens) int32; `end_token` from the end of the answer on.
    """
    mesh = mesh_of(model)
    return _generate(model, batch, budget, max_new_tokens, end_token, sampling, mesh, key)


@partial(jit_to_answer, static_argnums=(2, 3, 4, 5, 6))
def _generate(
    model: VideoLanguageModel,
    batch: Batch,
    budget: Budget,
    max_new_tokens: int,
    end_token: int,
    sampling: Sampling,
    mesh: Mesh | None,
    key: jax.Array,
) -> jax.Array:
    with on_mesh(mesh):
        state = start_decoding(model, batch, budget, max_new_tokens, end_token, sampling, key)
        return decode(model, state, max_new_tokens, end_token, sampling)


def program_to_answer(model: VideoLanguageModel) -> Any:
    """Returns the jitted program of `generate`, to compile it ahead; see `_generate`."""
    return _generate.program_for(model)


def start_decoding(
    model: VideoLanguageModel,
    batch: Batch,
    budget: Budget,
    max_new_tokens: int,
    end_token: int,
    sampling: Sampling,
    key: jax.Array,
    scored: ScoredFrames | None = None,
) -> DecodingState:
    """Reads the prompts and chooses the first token of every answer.

    The arguments are those of `generate`, and those of `prefill`.

    Returns:
      the state of the first `decode_step`, with room for `max_new_tokens` in the cache.
    """
    prefill_key, _, _ = decoding_keys(key)
    read = prefill(model, batch, budget, max_new_tokens, prefill_key, scored)
    return first_state(read, end_token, sampling, key)


def first_state(
    read: Prefilled, end_token: int, sampling: Sampling, key: jax.Array
) -> DecodingState:
    """Chooses the first token of every answer to prompts that were read.

    Args:
      read: the prompts.
      end_token, sampling, key: those of `generate`.
    """
    _, sample_key, later = decoding_keys(key)
    token = jnp.where(read.empty, end_token, sample(read.logits, sampling, sample_key))
    return DecodingState(
        cache=read.cache,
        tokens=read.tokens,
        next_token=token,
        position=read.position,
        cache_index=read.cache_index,
        finished=token == end_token,
        key=later,
    )


def decoding_keys(key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Splits the key of `generate` for the prompts, the first tokens, and the later ones."""
    prefill_key, sample_key, later = jax.random.split(key, 3)
    return prefill_key, sample_key, later


def decode(
    model: VideoLanguageModel,
    state: DecodingState,
    max_new_tokens: int,
    end_token: int,
    sampling: Sampling,
) -> Int[Array, "B new_tokens"]:
    """Completes the answers from `start_decoding`; arguments and result are those of `generate`."""
    return decode_to_end(model, state, max_new_tokens, end_token, sampling)[0]


def decode_to_end(
    model: VideoLanguageModel,
    state: DecodingState,
    max_new_tokens: int,
    end_token: int,
    sampling: Sampling,
) -> tuple[Int[Array, "B new_tokens"], DecodingState]:
    """Returns what `decode` does, and the state after it: the last token isn't in the cache."""
    answers = jnp.full((state.next_token.shape[0], max_new_tokens), end_token, jnp.int32)
    answers = answers.at[:, 0].set(state.next_token)
    assert isinstance(state.cache, KeyValueCache)
    cache = decoding_cache(state.cache, model.llm.blocks, max_new_tokens)
    state = replace(state, cache=cache)

    def unfinished(carry: tuple[jax.Array, jax.Array, DecodingState]) -> jax.Array:
        count, _, state = carry
        return (count < max_new_tokens) & ~state.finished.all()

    def step(
        carry: tuple[jax.Array, jax.Array, DecodingState],
    ) -> tuple[jax.Array, jax.Array, DecodingState]:
        count, answers, state = carry
        state = decode_step(model, state, end_token, sampling)
        return count + 1, answers.at[:, count].set(state.next_token), state

    _, answers, state = jax.lax.while_loop(unfinished, step, (jnp.int32(1), answers, state))
    return answers, state


def decode_step(
    model: VideoLanguageModel, state: DecodingState, end_token: int, sampling: Sampling
) -> DecodingState:
    """Chooses one more token of every answer; the arguments are those of `generate`.

    The cache is updated in place where the caller gives the state up (`donate_argnums`).
    """
    logits, cache = next_logits(
        model, state.cache, state.tokens, state.next_token, state.position, state.cache_index
    )
    sample_key, later = jax.random.split(state.key)
    token = sample(logits, sampling, sample_key)
    token = jnp.where(state.finished, end_token, token)
    return DecodingState(
        cache=cache,
        tokens=state.tokens,
        next_token=token,
        position=state.position + 1,
        cache_index=state.cache_index + 1,
        finished=state.finished | (token == end_token),
        key=later,
    )


def next_logits(
    model: VideoLanguageModel,
    cache: C,
    tokens: TokenTable,
    token: Int[Array, " B"],
    position: Int[Array, " B"],
    cache_index: Int[Array, ""],
) -> tuple[jax.Array, C]:
    """Returns the logits (B, V) after one token of each row, and the cache with these tokens.

    Args:
      model: the model.
      cache: keys and values of the tokens before.
      tokens: the tokens at the cache indices; (B, C).
      token: (B,) int32.
      position: (B,) their rotary positions.
      cache_index: () their index in the cache.
    """
    query = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, cache_index, 1, axis=1), tokens)
    mask = attention_mask(query, tokens, model.config.llm.bidirectional)
    x = model.llm.embed(token[:, None], model.dtype)
    hidden, cache = model.llm.step(x, position[:, None], mask, cache, cache_index)
    return model.llm.logits(hidden[:, 0]), cache
