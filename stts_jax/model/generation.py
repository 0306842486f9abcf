"""Answers: prefill once, then one compiled step per token against a cache of static size.

The cache holds only what the prune left. Rows of different length share a batch: a row's padding
stays in the cache and is never looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from stts_jax.budget import Budget
from stts_jax.layers.attention_mask import TokenTable, attention_mask
from stts_jax.model.llm import Cache, LlmBlock
from stts_jax.model.split_cache import SplitCache
from stts_jax.model.video_language_model import VideoLanguageModel
from stts_jax.parallel.mesh import mesh_of, on_mesh


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
      temperature: 0 is greedy.
      top_k: only the k most probable tokens, 0 for all.
      top_p: only the fewest tokens that together reach this probability.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DecodingState:
    """What one step hands to the next.

    Attributes:
      cache: keys and values so far.
      tokens: of each place of the cache, for the mask; (B, C).
      next_token: (B,) chosen, not yet in the cache.
      position: (B,) rotary position of `next_token`.
      place: () place in the cache of `next_token`.
      finished: (B,) bool.
      key: random key.
    """

    cache: Cache
    tokens: TokenTable
    next_token: jax.Array
    position: jax.Array
    place: jax.Array
    finished: jax.Array
    key: jax.Array


def generate(
    model: VideoLanguageModel,
    batch: dict[str, jax.Array],
    budget: Budget,
    *,
    max_new_tokens: int,
    end_token: int,
    sampling: Sampling,
    key: jax.Array,
) -> jax.Array:
    """Answer every row of a batch of prompts.

    Compiles once for a budget and count of tokens, whatever the content. Stops early when all
    rows have ended.

    Args:
      model: the model; where its parameters are cut up between devices, rows are shared too, if
        their count allows.
      batch: the arrays of `budget.batch_arrays`; prompts only.
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


@partial(jax.jit, static_argnums=(2, 3, 4, 5, 6))
def _generate(
    model: VideoLanguageModel,
    batch: dict[str, jax.Array],
    budget: Budget,
    max_new_tokens: int,
    end_token: int,
    sampling: Sampling,
    mesh: Mesh | None,
    key: jax.Array,
) -> jax.Array:
    with on_mesh(mesh):
        return _answers(model, batch, budget, max_new_tokens, end_token, sampling, key)


def _answers(
    model: VideoLanguageModel,
    batch: dict[str, jax.Array],
    budget: Budget,
    max_new_tokens: int,
    end_token: int,
    sampling: Sampling,
    key: jax.Array,
) -> jax.Array:
    state = prefill(model, batch, budget, max_new_tokens, end_token, sampling, key)
    return answers_from(model, state, max_new_tokens, end_token, sampling)


def answers_from(
    model: VideoLanguageModel,
    state: DecodingState,
    max_new_tokens: int,
    end_token: int,
    sampling: Sampling,
) -> jax.Array:
    """Whole answers from what `prefill` returned; arguments and result are those of `generate`."""
    answers = jnp.full((state.next_token.shape[0], max_new_tokens), end_token, jnp.int32)
    answers = answers.at[:, 0].set(state.next_token)
    blocks = model.llm.blocks_apart(rows=len(answers))
    if blocks:
        keys, values = state.cache.keys, state.cache.values
        prompt = keys.shape[2] - max_new_tokens
        state = replace(state, cache=SplitCache.of(keys, values, prompt))

    def unfinished(carry: tuple[jax.Array, jax.Array, DecodingState]) -> jax.Array:
        count, _, state = carry
        return (count < max_new_tokens) & ~state.finished.all()

    def step(
        carry: tuple[jax.Array, jax.Array, DecodingState],
    ) -> tuple[jax.Array, jax.Array, DecodingState]:
        count, answers, state = carry
        state = decode_step(model, state, end_token, sampling, blocks)
        return count + 1, answers.at[:, count].set(state.next_token), state

    return jax.lax.while_loop(unfinished, step, (jnp.int32(1), answers, state))[1]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ReadPrompts:
    """Prompts in a cache that has room for answers.

    Attributes:
      logits: (B, V) of the first token of each answer.
      cache: keys and values of the prompts.
      tokens: of each place of the cache, for the mask; (B, C).
      position: (B,) rotary position of the first token of each answer.
      place: () place in the cache of that token.
      empty: (B,) bool, rows without a prompt.
    """

    logits: jax.Array
    cache: Cache
    tokens: TokenTable
    position: jax.Array
    place: jax.Array
    empty: jax.Array


def read_prompts(
    model: VideoLanguageModel,
    batch: dict[str, jax.Array],
    budget: Budget,
    max_new_tokens: int,
    key: jax.Array,
) -> ReadPrompts:
    """Read the prompts; the arguments are those of `generate`, `key` is for method `random`."""
    rows = model.fuse(batch, budget, key)
    length = rows.embeddings.shape[1]
    positions = rows.text["position_ids"]
    mask = attention_mask(rows.tokens, rows.tokens, model.config.llm.bidirectional)
    capacity = length + max_new_tokens
    hidden, cache = model.llm.prefill(rows.embeddings, positions, mask, capacity)
    last = jnp.maximum(rows.tokens.valid.sum(1) - 1, 0)[:, None]
    return ReadPrompts(
        logits=model.llm.logits(jnp.take_along_axis(hidden, last[..., None], axis=1)[:, 0]),
        cache=cache,
        tokens=_room_for_answers(rows.tokens, last, max_new_tokens),
        position=jnp.take_along_axis(positions, last, axis=1)[:, 0] + 1,
        place=jnp.int32(length),
        empty=~rows.tokens.valid.any(1),
    )


def prefill(
    model: VideoLanguageModel,
    batch: dict[str, jax.Array],
    budget: Budget,
    max_new_tokens: int,
    end_token: int,
    sampling: Sampling,
    key: jax.Array,
) -> DecodingState:
    """Read the prompts and choose the first token of every answer.

    The arguments are those of `generate`.

    Returns:
      a cache with room for `max_new_tokens`, and what else `decode_step` needs.
    """
    prune_key, sample_key, later = jax.random.split(key, 3)
    read = read_prompts(model, batch, budget, max_new_tokens, prune_key)
    token = jnp.where(read.empty, end_token, sample(read.logits, sampling, sample_key))
    return DecodingState(
        cache=read.cache,
        tokens=read.tokens,
        next_token=token,
        position=read.position,
        place=read.place,
        finished=token == end_token,
        key=later,
    )


def _room_for_answers(prompt: TokenTable, last: jax.Array, count: int) -> TokenTable:
    """The prompt's table, with `count` more text tokens that continue its last one."""
    rows, length = prompt.valid.shape

    def extend(x: jax.Array, more: jax.Array) -> jax.Array:
        return jnp.concatenate([x, jnp.broadcast_to(more, (rows, count)).astype(x.dtype)], axis=1)

    return TokenTable(
        index=extend(prompt.index, length + jnp.arange(count)),
        # Places not written yet lie behind every query, so causality hides them.
        valid=extend(prompt.valid, jnp.array(True)),
        visual=extend(prompt.visual, jnp.array(False)),
        frame=extend(prompt.frame, prompt.frame[:, -1:]),
        subsegment=extend(prompt.subsegment, jnp.take_along_axis(prompt.subsegment, last, axis=1)),
    )


def decode_step(
    model: VideoLanguageModel,
    state: DecodingState,
    end_token: int,
    sampling: Sampling,
    blocks: Sequence[LlmBlock] = (),
) -> DecodingState:
    """Choose one more token of every answer; the arguments are those of `generate`.

    `blocks` are those of `LanguageModel.blocks_apart`, made before the first step.

    The cache is written in place where the caller gives the state up (`donate_argnums`).
    """
    logits, cache = next_logits(
        model, state.cache, state.tokens, state.next_token, state.position, state.place, blocks
    )
    sample_key, later = jax.random.split(state.key)
    token = sample(logits, sampling, sample_key)
    token = jnp.where(state.finished, end_token, token)
    return DecodingState(
        cache=cache,
        tokens=state.tokens,
        next_token=token,
        position=state.position + 1,
        place=state.place + 1,
        finished=state.finished | (token == end_token),
        key=later,
    )


def next_logits(
    model: VideoLanguageModel,
    cache: Cache,
    tokens: TokenTable,
    token: jax.Array,
    position: jax.Array,
    place: jax.Array,
    blocks: Sequence[LlmBlock] = (),
) -> tuple[jax.Array, Cache]:
    """Returns (B, V) logits of what follows a token of each row, and the cache with these tokens.

    Args:
      model: the model.
      cache: of what stands before.
      tokens: of each place of the cache; (B, C).
      token: (B,) int32.
      position: (B,) their rotary positions.
      place: () their place in the cache.
      blocks: those of `LanguageModel.blocks_apart`.
    """
    query = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, place, 1, axis=1), tokens)
    mask = attention_mask(query, tokens, model.config.llm.bidirectional)
    x = model.llm.embed(token[:, None], model.dtype)
    hidden, cache = model.llm.step(x, position[:, None], mask, cache, place, blocks)
    return model.llm.logits(hidden[:, 0]), cache


def sample(logits: jax.Array, sampling: Sampling, key: jax.Array) -> jax.Array:
    """(B, V) logits -> (B,) int32 tokens.

    Top-k is taken before top-p, and top-p's mass is that of the whole distribution, as in the
    reference (olmo/nn/beam_search.py); the token that crosses `top_p` is included.
    """
    if sampling.temperature == 0.0:
        return logits.argmax(-1).astype(jnp.int32)
    logits = logits / sampling.temperature
    order = jnp.argsort(logits, axis=-1, descending=True, stable=True)
    # Counted by rank, so that ties at the cut don't let more tokens through.
    rank = jnp.argsort(order, axis=-1)
    count = jnp.full((logits.shape[0], 1), sampling.top_k or logits.shape[-1])
    if sampling.top_p < 1.0:
        ordered = jnp.take_along_axis(logits, order, axis=-1)
        mass = jnp.cumsum(jax.nn.softmax(ordered, axis=-1), axis=-1)
        mass_before = jnp.roll(mass, 1, axis=-1).at[:, 0].set(0.0)
        count = jnp.minimum(count, (mass_before < sampling.top_p).sum(-1, keepdims=True))
    allowed = jnp.where(rank < count, logits, -jnp.inf)
    return jax.random.categorical(key, allowed, axis=-1).astype(jnp.int32)
