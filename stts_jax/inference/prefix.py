"""The prefix of a prompt: images or a video, read once and kept, for any number of questions.

Visual tokens come before the question and look forward only at each other, so their keys and values
don't depend on what is asked (docs/ARCHITECTURE.md#a-video-that-is-asked-many-times).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from stts_jax.batch import Batch
from stts_jax.budget import Budget
from stts_jax.inference.adaptive import choose_bucket
from stts_jax.inference.cache import KeyValueCache
from stts_jax.inference.cpu_programs import jit_to_answer
from stts_jax.layers.attention_mask import TokenTable, attention_mask
from stts_jax.model.video_language_model import FusedRows, VideoLanguageModel, vision_encoder
from stts_jax.parallel.mesh import mesh_of, on_mesh
from stts_jax.pytrees import register_pytree
from stts_jax.size_buckets import text_room


@register_pytree
@dataclass(frozen=True)
class Prefix:
    """Tokens that were read, in a cache without room for more.

    Attributes:
      cache: keys and values; of each row the tokens come first, then padding.
      length: (B,) int32, tokens of each row.
      position: (B,) int32, rotary position of the token that comes next.
    """

    cache: KeyValueCache
    length: Int[Array, " B"]
    position: Int[Array, " B"]

    @property
    def capacity(self) -> int:
        """Returns C."""
        return int(self.cache.keys.shape[2])

    @property
    def nbytes(self) -> int:
        """Returns the bytes of keys and values."""
        return int(self.cache.keys.nbytes + self.cache.values.nbytes)

    def tokens(self) -> TokenTable:
        """Returns the table of the tokens, as text that comes after sees them."""
        shape = (len(self.length), self.capacity)
        zeros = jnp.zeros(shape, jnp.int32)
        index = jnp.broadcast_to(jnp.arange(self.capacity), shape)
        return TokenTable(
            index=index,
            valid=index < self.length[:, None],
            visual=jnp.zeros(shape, bool),
            frame=zeros,
            subsegment=zeros,
        )


@register_pytree
@dataclass(frozen=True)
class ReadMedia:
    """Images or videos that were read, and what stayed of them.

    Attributes:
      prefix: of the questions about them.
      keep: (B, T, P) bool, pooled tokens that stay.
      scores: (B, T, P) float32, by which they were selected.
      visual: (B,) int32, visual tokens that stay.
    """

    prefix: Prefix
    keep: Bool[Array, "B T P"]
    scores: Float[Array, "B T P"]
    visual: Int[Array, " B"]


def read_media(
    model: VideoLanguageModel, batch: Batch, budget: Budget, key: jax.Array
) -> ReadMedia:
    """Runs the ViT, drops tokens, and reads what is left of images or videos into a cache.

    Compiles once for a budget. With `prune.threshold` the budget is that of rows of which nothing
    is dropped, and the blocks after the drop run in the smallest size bucket that holds what stays.

    Args:
      model: the model, in the configuration of its size bucket (`size_buckets.at_bucket`).
      batch: see `Batch`; of text only what comes before the questions, one example a row.
      budget: static sizes.
      key: for method `random`; `decoding.decoding_keys(key)[0]` of the key of `generate` gives
        what that draws.
    """
    return _read_media(model, batch, budget, mesh_of(model), key)


@partial(jit_to_answer, static_argnums=(2, 3))
def _read_media(
    model: VideoLanguageModel, batch: Batch, budget: Budget, mesh: Mesh | None, key: jax.Array
) -> ReadMedia:
    with on_mesh(mesh):
        if not model.config.prune.threshold:
            return _of_rows(model, model.fuse(batch, budget, key))
        scored = vision_encoder(model).score(batch, key=key)
        budgets, bucket, _ = choose_bucket(model, batch, budget, scored)
        capacity = budgets[-1].tokens

        def in_bucket(own: Budget) -> ReadMedia:
            read = _of_rows(model, model.fuse(batch, own, key, scored))
            return dataclasses.replace(read, prefix=_resized(read.prefix, capacity))

        read: ReadMedia = jax.lax.switch(bucket, [partial(in_bucket, own) for own in budgets])
        return read


def _of_rows(model: VideoLanguageModel, rows: FusedRows) -> ReadMedia:
    mask = attention_mask(rows.tokens, rows.tokens, model.config.llm.bidirectional)
    positions, valid = rows.text.position_ids, rows.tokens.valid
    _, keys, values = model.llm.prefill(rows.embeddings, positions, mask, valid.shape[1])
    length = valid.sum(1).astype(jnp.int32)
    last = jnp.take_along_axis(positions, jnp.maximum(length - 1, 0)[:, None], axis=1)[:, 0]
    visual = model.config.llm.special_token("<im_patch>")
    return ReadMedia(
        prefix=Prefix(KeyValueCache(keys, values), length, jnp.where(length > 0, last + 1, 0)),
        keep=rows.vision.plan.keep,
        scores=rows.vision.scores,
        visual=(rows.text.input_ids == visual).sum(1).astype(jnp.int32),
    )


def empty_prefix(model: VideoLanguageModel, rows: int = 1) -> Prefix:
    """Returns a prefix of no tokens, for prompts of text alone, of which BOS is the first."""
    llm = model.config.llm
    shape = (llm.layers, rows, text_room(1), llm.kv_heads, llm.head_dim)
    zeros, none = jnp.zeros(shape, model.dtype), jnp.zeros(rows, jnp.int32)
    return Prefix(KeyValueCache(zeros, zeros), none, none)


def fitted(prefix: Prefix) -> Prefix:
    """Returns a prefix in the smallest size bucket that holds its tokens; waits for the device."""
    needed = int(np.max(jax.device_get(prefix.length), initial=1))
    return resized(prefix, text_room(needed))


def resized(prefix: Prefix, capacity: int) -> Prefix:
    """Returns a prefix in a cache of `capacity` indices, which must hold its tokens."""
    if capacity == prefix.capacity:
        return prefix
    return _resize(prefix, capacity)


def _resized(prefix: Prefix, capacity: int) -> Prefix:
    def fit(x: jax.Array) -> jax.Array:
        more = max(0, capacity - x.shape[2])
        return jnp.pad(x[:, :, :capacity], ((0, 0), (0, 0), (0, more), (0, 0), (0, 0)))

    return dataclasses.replace(prefix, cache=jax.tree.map(fit, prefix.cache))


_resize = partial(jax.jit, static_argnums=1)(_resized)
