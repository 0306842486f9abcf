"""Language model in both forms, Qwen3 and OLMo3.

Source: olmo/nn/llm.py; docs/reference.md#language-models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from stts_jax.attention import Mask, attention
from stts_jax.config import LlmConfig
from stts_jax.host_cpu import has_avx512
from stts_jax.layers.linear import Linear, turned
from stts_jax.layers.mlp import SwiGluMlp
from stts_jax.layers.norms import RmsNorm
from stts_jax.layers.rotary import rotary_tables, rotate
from stts_jax.model.split_cache import SplitCache
from stts_jax.parallel.mesh import share_places
from stts_jax.parallel.parameters import parameter, stack, truncated_normal, unstack

# Parameters that decoding on a CPU holds a second time: with fewer a step is not quicker, only its
# compilation slower; of more a second copy may find no room.
_LEAST_BYTES_APART, _MOST_BYTES_APART = 2**24, 2**31
# Maps (q, k, v) to the attended values and whatever is to be kept of this layer.
AttendAndKeep = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, Any]]
Rotate = Callable[[jax.Array], jax.Array]
Drop = Callable[[jax.Array, int], jax.Array]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class KeyValueCache:
    """Keys (rotated) and values of every layer: (layers, B, C, K, head_dim) each."""

    keys: jax.Array
    values: jax.Array

    def write(
        self, key: jax.Array, value: jax.Array, layer: jax.Array, place: jax.Array
    ) -> KeyValueCache:
        """With keys and values of one token, (B, 1, K, head_dim), at a place of a layer."""

        def put(old: jax.Array, new: jax.Array) -> jax.Array:
            start = (layer, 0, place, 0, 0)
            return jax.lax.dynamic_update_slice(old, new[None].astype(old.dtype), start)

        return KeyValueCache(put(self.keys, key), put(self.values, value))

    def layer(self, layer: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Keys and values of one layer, (B, C, K, head_dim) each."""
        keys, values = (
            jax.lax.dynamic_index_in_dim(x, layer, keepdims=False) for x in (self.keys, self.values)
        )
        return keys, values

    def attend(
        self,
        query: jax.Array,
        key: jax.Array,
        value: jax.Array,
        layer: jax.Array,
        place: jax.Array,
        mask: Mask,
    ) -> tuple[jax.Array, KeyValueCache]:
        """As `SplitCache.attend`."""
        written = self.write(key, value, layer, place)
        return attention(query, *written.layer(layer), mask=mask), written


Cache = KeyValueCache | SplitCache


class LlmBlock(nnx.Module):
    """Attention and SwiGLU, with RMS norms before (`pre`) or after (`post`) each of them."""

    def __init__(self, config: LlmConfig, *, key: jax.Array) -> None:
        keys = jax.random.split(key, 9)
        width, epsilon = config.width, config.norm_epsilon
        query, key_value = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self.config = config
        self.query = Linear(width, query, axes=("embed", "heads"), key=keys[0], bias=False)
        self.key = Linear(width, key_value, axes=("embed", "kv_heads"), key=keys[1], bias=False)
        self.value = Linear(width, key_value, axes=("embed", "kv_heads"), key=keys[2], bias=False)
        self.output = Linear(query, width, axes=("heads", "embed"), key=keys[3], bias=False)
        self.mlp = SwiGluMlp(width, config.mlp_width, width, key=keys[4])
        self.attention_norm = RmsNorm(width, epsilon, key=keys[5])
        self.mlp_norm = RmsNorm(width, epsilon, key=keys[6])
        sizes = {
            "none": None,
            "head": (config.head_dim, config.head_dim),
            "full": (query, key_value),
        }[config.qk_norm]
        self.query_norm = RmsNorm(sizes[0], epsilon, key=keys[7]) if sizes else None
        self.key_norm = RmsNorm(sizes[1], epsilon, key=keys[8]) if sizes else None

    def __call__(
        self, x: jax.Array, turn: Rotate, attend: AttendAndKeep, drop: Drop
    ) -> tuple[jax.Array, Any]:
        """(B, L, d) -> (B, L, d), and what `attend` keeps."""
        pre = self.config.norm_position == "pre"
        query, key, value = self._project(self.attention_norm(x) if pre else x)
        attended, kept = attend(turn(query), turn(key), value)
        attended = self.output(attended.reshape(*x.shape[:-1], -1))
        x = x + drop(attended if pre else self.attention_norm(attended), 0)
        hidden = self.mlp(self.mlp_norm(x) if pre else x)
        return x + drop(hidden if pre else self.mlp_norm(hidden), 1), kept

    def _project(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(B, L, d) -> queries (B, L, H, head_dim), keys and values (B, L, K, head_dim)."""
        query, key, value = self.query(x), self.key(x), self.value(x)
        if self.config.qk_norm == "full":
            query, key = self.query_norm(query), self.key_norm(key)

        def split(y: jax.Array) -> jax.Array:
            return y.reshape(*y.shape[:-1], -1, self.config.head_dim)

        query, key, value = split(query), split(key), split(value)
        if self.config.qk_norm == "head":
            query, key = self.query_norm(query), self.key_norm(key)
        return query, key, value


class LanguageModel(nnx.Module):
    """Embeddings, blocks, final norm and head."""

    def __init__(self, config: LlmConfig, *, key: jax.Array) -> None:
        keys = jax.random.split(key, 5)
        width = config.width
        # A tied table is also the head, whose logits should start near 0; one of its own starts as
        # large as what the blocks add to it, or words would drown in the first block.
        embedding = truncated_normal(width**-0.5 if config.tied_head else 1.0)
        self.config = config
        self.embedding = parameter(
            embedding, keys[0], (config.vocab_size, width), ("vocab", "embed")
        )
        self.extra_embedding = parameter(
            truncated_normal(0.02), keys[1], (config.extra_vocab_size, width), (None, "embed")
        )
        self.blocks = stack(lambda k: LlmBlock(config, key=k), keys[2], config.layers)
        self.final_norm = RmsNorm(width, config.norm_epsilon, key=keys[3])
        self.head = (
            None
            if config.tied_head
            else parameter(
                truncated_normal(width**-0.5),
                keys[4],
                (width, config.vocab_size),
                ("embed", "vocab"),
            )
        )

    def embed(self, input_ids: jax.Array, dtype: jnp.dtype) -> jax.Array:
        """(B, L) ids -> (B, L, d); padding (-1) is embedded like id 0, nobody sees it."""
        base = self.config.vocab_size
        ids = jnp.maximum(input_ids, 0)
        known = self.embedding[...][jnp.minimum(ids, base - 1)]
        extra = self.extra_embedding[...][jnp.clip(ids - base, 0)]
        return jnp.where((ids < base)[..., None], known, extra).astype(dtype)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """(..., d) -> (..., V) float32; the extra tokens cannot be predicted."""
        head = self.embedding[...].T if self.head is None else self.head[...]
        return jnp.dot(hidden, head.astype(hidden.dtype), preferred_element_type=jnp.float32)

    def __call__(
        self,
        x: jax.Array,
        positions: jax.Array,
        mask: Mask,
        *,
        response: jax.Array | None = None,
        key: jax.Array | None = None,
        remat: bool = False,
    ) -> jax.Array:
        """All tokens at once.

        Args:
          x: (B, L, d) embeddings, visual features added.
          positions: (B, L) int.
          mask: who may look at whom, of (B, L) places.
          response: (B, L) bool, tokens of an answer; they have their own dropout rate.
          key: for dropout; None turns it off.
          remat: recompute each block in the backward pass.

        Returns:
          (B, L, d) after the final norm.
        """

        def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, None]:
            return attention(q, k, v, mask=mask), None

        hidden, _ = self._run(x, positions, attend, response, key, remat)
        return hidden

    def prefill(
        self, x: jax.Array, positions: jax.Array, mask: Mask, capacity: int
    ) -> tuple[jax.Array, KeyValueCache]:
        """As a call without dropout, also filling the first L places of a new cache."""
        padding = [(0, 0), (0, capacity - x.shape[1]), (0, 0), (0, 0)]

        def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, Any]:
            return attention(q, k, v, mask=mask), (jnp.pad(k, padding), jnp.pad(v, padding))

        hidden, kept = self._run(x, positions, attend)
        return hidden, KeyValueCache(*kept)

    def step(
        self,
        x: jax.Array,
        positions: jax.Array,
        mask: Mask,
        cache: Cache,
        place: jax.Array,
        blocks: Sequence[LlmBlock] = (),
    ) -> tuple[jax.Array, Cache]:
        """One token of each row, against the cache.

        Args:
          x: (B, 1, d).
          positions: (B, 1) int.
          mask: which of the (B, C) places of the cache it may look at, its own included.
          cache: of C places; a `SplitCache` only with `blocks`.
          place: () int, where in the cache the new token goes.
          blocks: those of `blocks_apart`, if there are any; the same numbers, sooner.
        """
        frequencies, magnitudes = (jnp.asarray(t) for t in rotary_tables(self.config))

        # The cache is carried and written in place, one token of one layer at a time. Handed out
        # layer by layer and stacked again it would be there twice.
        def body(
            carry: tuple[jax.Array, Cache], per_layer: tuple[Any, ...]
        ) -> tuple[tuple[jax.Array, Cache], None]:
            x, cache = carry
            block, frequency, magnitude, layer = per_layer

            def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, Any]:
                return cache.attend(q, k, v, layer, place, mask)

            x, cache = block(
                share_places(x),
                lambda y: rotate(y, positions, frequency, magnitude),
                attend,
                lambda y, _: y,
            )
            return (share_places(x), cache), None

        carry = (x, cache)
        for layer, block in enumerate(blocks):
            carry, _ = body(carry, (block, frequencies[layer], magnitudes[layer], layer))
        if not blocks:
            layers = jnp.arange(self.config.layers)
            carry, _ = jax.lax.scan(body, carry, (self.blocks, frequencies, magnitudes, layers))
        x, cache = carry
        return self.final_norm(x), cache

    def blocks_apart(self, rows: int) -> tuple[LlmBlock, ...]:
        """Blocks with parameters of their own, for many a `step`; none where they are no gain.

        On a CPU a scan copies each layer's parameters out of the stack before it multiplies one
        token with them (docs/performance.md). What is copied here is there twice, so it is not for
        large models.

        Args:
          rows: that a step has; kernels lie as is best for one, or for several.
        """
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(self.blocks))
        if jax.default_backend() == "cpu" and _LEAST_BYTES_APART <= size <= _MOST_BYTES_APART:
            blocks = unstack(self.blocks, self.config.layers)
            as_they_lie = rows == 1 or has_avx512()
            return blocks if as_they_lie else tuple(turned(block) for block in blocks)
        return ()

    def _run(
        self,
        x: jax.Array,
        positions: jax.Array,
        attend: AttendAndKeep,
        response: jax.Array | None = None,
        key: jax.Array | None = None,
        remat: bool = False,
    ) -> tuple[jax.Array, Any]:
        frequencies, magnitudes = (jnp.asarray(t) for t in rotary_tables(self.config))
        keys = None if key is None else jax.random.split(key, self.config.layers)

        def body(x: jax.Array, per_layer: tuple[Any, ...]) -> tuple[jax.Array, Any]:
            block, frequency, magnitude, layer_key = per_layer
            x, kept = block(
                share_places(x),
                lambda y: rotate(y, positions, frequency, magnitude),
                attend,
                residual_dropout(self.config, response, layer_key),
            )
            return share_places(x), kept

        per_layer = (self.blocks, frequencies, magnitudes, keys)
        x, kept = jax.lax.scan(jax.checkpoint(body) if remat else body, x, per_layer)
        return self.final_norm(x), kept


def residual_dropout(config: LlmConfig, response: jax.Array | None, key: jax.Array | None) -> Drop:
    """Dropout on what a sub-layer adds to the stream.

    With a `response_residual_dropout` of 0 all tokens get the plain rate, otherwise answers and
    prompts have one each. Source: olmo/nn/llm.py `Dropout`.
    """
    plain, answer = config.residual_dropout, config.response_residual_dropout
    if key is None or (plain == 0.0 and answer == 0.0):
        return lambda x, _: x
    rate: Any = plain
    if answer > 0.0:
        if response is None:
            raise ValueError("dropout of answers needs to know which tokens are of an answer")
        rate = jnp.where(response, answer, plain)[..., None]

    def drop(x: jax.Array, place: int) -> jax.Array:
        keep = jax.random.bernoulli(jax.random.fold_in(key, place), 1.0 - rate, x.shape)
        return (jnp.where(keep, x, 0) / (1.0 - rate)).astype(x.dtype)

    return drop
