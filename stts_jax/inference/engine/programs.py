"""The programs of the engine: a request joins a slot, and all slots make a step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Int

from stts_jax.attention import IndexMask, MaskSpec, TokenMaskIds
from stts_jax.inference.cache import KeyValueCache
from stts_jax.inference.cpu_cache import blocks_by_layer
from stts_jax.inference.cpu_programs import bind_to_answer
from stts_jax.inference.decoding import decoding_keys
from stts_jax.inference.engine.cpu_slot_cache import CpuSlotCache
from stts_jax.inference.engine.slot_cache import kept_sharded
from stts_jax.inference.engine.slots import RowSampling, Slots
from stts_jax.inference.prefix import Prefix
from stts_jax.inference.questions import extend_prefix
from stts_jax.inference.sampling import sample_each
from stts_jax.model.video_language_model import VideoLanguageModel
from stts_jax.parallel.mesh import on_mesh

# A model, and the blocks of its LLM by layer for a cache that has them so.
Models = tuple[VideoLanguageModel, tuple[Any, ...]]


class Programs:
    """The compiled programs of one model.

    Attributes:
      join, step: see the functions of these names, without the models.
    """

    def __init__(self, model: VideoLanguageModel, *, by_layer: bool) -> None:
        """Takes the model; `by_layer` is that of `slot_cache.new_cache`."""
        blocks, layers = model.llm.blocks, model.config.llm.layers
        models = (model, blocks_by_layer(blocks, layers) if by_layer else ())
        self.join = bind_to_answer(join, models, static_argnums=(7, 8), donate_argnums=(1,))
        self.step = bind_to_answer(step, models, static_argnums=(2, 3, 4), donate_argnums=(1,))


def join(
    models: Models,
    slots: Slots,
    prefix: Prefix,
    question: Int[Array, "1 Q"],
    slot: Int[Array, ""],
    new_tokens: Int[Array, ""],
    sampling: RowSampling,
    end_token: int,
    mesh: Mesh | None,
) -> tuple[Slots, jax.Array]:
    """Reads a question after its prefix into a slot, and chooses the first token of its answer.

    Args:
      models: the model, and the blocks of its LLM by layer.
      slots: given up.
      prefix: one row.
      question: (1, Q) int32, padded with -1; prefix, Q and answer fit the cache.
      slot: () int32.
      new_tokens: () int32, of the answer, at most.
      sampling: of the request, without the axis S.
      end_token: ends an answer.
      mesh: of the model.

    Returns:
      the slots, and () int32, the first token.
    """
    with on_mesh(mesh):
        read = extend_prefix(models[0], prefix, question)
        _, sample_key, later = decoding_keys(sampling.key)
        rows = jax.tree.map(lambda x: x[None], replace(sampling, key=sample_key))
        token = sample_each(read.logits, rows.temperature, rows.top_k, rows.top_p, rows.key)[0]
        start, length = prefix.length[0], read.length[0]
        cache = slots.cache.put(slot, 0, prefix.cache)
        # What the question's padding writes is overwritten before it is seen.
        cache = cache.put(slot, start, KeyValueCache(read.keys, read.values))
        slots = slots.with_row(
            slot,
            next_token=token,
            position=prefix.position[0] + length,
            cache_index=start + length,
            stop_index=start + length + new_tokens - 1,
            finished=(token == end_token) | (new_tokens <= 1),
            sampling=replace(sampling, key=later),
        )
        return replace(slots, cache=kept_sharded(cache, mesh)), token


def step(
    models: Models,
    slots: Slots,
    count: int,
    end_token: int,
    mesh: Mesh | None,
) -> tuple[Slots, jax.Array]:
    """Chooses further tokens of the answers of all slots.

    Args:
      models: the model, and the blocks of its LLM by layer, for a cache that has them so.
      slots: given up.
      count: tokens of each answer.
      end_token: ends an answer; slots that have finished go on with it.
      mesh: of the model.

    Returns:
      the slots, and (count, S) int32 tokens.
    """
    tokens = []
    with on_mesh(mesh):
        for _ in range(count):
            slots = _step(*models, slots, end_token)
            tokens.append(slots.next_token)
        return replace(slots, cache=kept_sharded(slots.cache, mesh)), jnp.stack(tokens)


def _step(
    model: VideoLanguageModel, blocks: tuple[Any, ...], slots: Slots, end_token: int
) -> Slots:
    cache: Any = slots.cache
    if isinstance(cache, CpuSlotCache):
        cache = replace(cache, blocks=blocks)
    index = slots.cache_index[:, None]
    keys = jnp.broadcast_to(jnp.arange(cache.capacity), (len(index), cache.capacity))
    # Of each slot the tokens come first, without gaps, so a query sees what is up to its index.
    mask = IndexMask(TokenMaskIds(index=index), TokenMaskIds(index=keys), MaskSpec(causal=True))
    x = model.llm.embed(slots.next_token[:, None], model.dtype)
    hidden, cache = model.llm.step(x, slots.position[:, None], mask, cache, slots.cache_index)
    if isinstance(cache, CpuSlotCache):
        cache = replace(cache, blocks=())
    split = jax.vmap(jax.random.split)(slots.sampling.key)
    sampling = slots.sampling
    logits = model.llm.logits(hidden[:, 0])
    token = sample_each(logits, sampling.temperature, sampling.top_k, sampling.top_p, split[:, 0])
    token = jnp.where(slots.finished, end_token, token)
    going = (~slots.finished).astype(jnp.int32)
    cache_index = slots.cache_index + going
    return replace(
        slots,
        cache=cache,
        next_token=token,
        position=slots.position + going,
        cache_index=cache_index,
        finished=slots.finished | (token == end_token) | (cache_index >= slots.stop_index),
        sampling=replace(sampling, key=split[:, 1]),
    )
