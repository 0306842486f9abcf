"""Prefill: reads the prompts of a batch once, into a cache with room for the answers."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from stts_jax.batch import Batch
from stts_jax.budget import Budget
from stts_jax.inference.cache import KeyValueCache
from stts_jax.layers.attention_mask import TokenTable, attention_mask
from stts_jax.model.video_language_model import VideoLanguageModel
from stts_jax.model.vision import ScoredFrames
from stts_jax.pytrees import register_pytree


@register_pytree
@dataclass(frozen=True)
class Prefilled:
    """Prompts in a cache that has room for answers.

    Attributes:
      logits: (B, V) float32, of the first token of each answer.
      cache: keys and values of the prompts.
      tokens: the tokens at the cache indices, for the mask; (B, C).
      position: (B,) rotary position of the first token of each answer.
      cache_index: () index in the cache of that token.
      empty: (B,) bool, rows without a prompt.
    """

    logits: Float[Array, "B vocab"]
    cache: KeyValueCache
    tokens: TokenTable
    position: Int[Array, " B"]
    cache_index: Int[Array, ""]
    empty: Bool[Array, " B"]


def prefill(
    model: VideoLanguageModel,
    batch: Batch,
    budget: Budget,
    max_new_tokens: int,
    key: jax.Array,
    scored: ScoredFrames | None = None,
) -> Prefilled:
    """Reads the prompts of a batch.

    The cache holds only the tokens that the drop left. Rows of different length share a batch: a
    row's padding stays in the cache, and no query sees it.

    Args:
      model: the model.
      batch: see `Batch`; prompts only.
      budget: static sizes.
      max_new_tokens: cache indices for each answer.
      key: for method `random`.
      scored: see `VideoLanguageModel.fuse`.
    """
    rows = model.fuse(batch, budget, key, scored)
    length = rows.embeddings.shape[1]
    positions = rows.text.position_ids
    mask = attention_mask(rows.tokens, rows.tokens, model.config.llm.bidirectional)
    capacity = length + max_new_tokens
    hidden, keys, values = model.llm.prefill(rows.embeddings, positions, mask, capacity)
    last = jnp.maximum(rows.tokens.valid.sum(1) - 1, 0)[:, None]
    return Prefilled(
        logits=model.llm.logits(jnp.take_along_axis(hidden, last[..., None], axis=1)[:, 0]),
        cache=KeyValueCache(keys, values),
        tokens=with_answers(rows.tokens, last, max_new_tokens),
        position=jnp.take_along_axis(positions, last, axis=1)[:, 0] + 1,
        cache_index=jnp.int32(length),
        empty=~rows.tokens.valid.any(1),
    )


def with_answers(prompt: TokenTable, last: jax.Array, count: int) -> TokenTable:
    """Returns the table with `count` text tokens more, which continue each row's token `last`."""
    rows, length = prompt.valid.shape

    def extend(x: jax.Array, more: jax.Array) -> jax.Array:
        return jnp.concatenate([x, jnp.broadcast_to(more, (rows, count)).astype(x.dtype)], axis=1)

    return TokenTable(
        index=extend(prompt.index, length + jnp.arange(count)),
        # Cache indices not written yet come after every query, so the causal mask hides them.
        valid=extend(prompt.valid, jnp.array(True)),
        visual=extend(prompt.visual, jnp.array(False)),
        frame=extend(prompt.frame, prompt.frame[:, -1:]),
        subsegment=extend(prompt.subsegment, jnp.take_along_axis(prompt.subsegment, last, axis=1)),
    )
