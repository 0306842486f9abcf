"""The language model, in the forms of Qwen3 and OLMo3.

Source: olmo/nn/llm.py; docs/reference.md#language-models.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from stts_jax.attention import Mask, attention
from stts_jax.config import LlmConfig
from stts_jax.layers.int8_linear import scaled_product
from stts_jax.layers.linear import Linear
from stts_jax.layers.mlp import SwiGluMlp
from stts_jax.layers.norms import RmsNorm
from stts_jax.layers.rotary import apply_rope, rotary_tables
from stts_jax.parallel.mesh import shard_activations
from stts_jax.parallel.parameters import parameter, stack, truncated_normal

# Attends: (q, k, v) -> output, and a result of this layer (keys and values, a cache, or None).
AttendAndKeep = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, Any]]
ApplyRope = Callable[[jax.Array], jax.Array]
Drop = Callable[[jax.Array, int], jax.Array]


@runtime_checkable
class Cache(Protocol):
    """A key-value cache, a pytree of arrays; see `inference.cache.KeyValueCache`."""

    def run_blocks(self, run: Callable[..., Any], blocks: Any, x: jax.Array) -> tuple[Any, Any]:
        """Runs the blocks on one token of each row: (B, 1, d), and the updated cache."""

    def attend(
        self,
        query: jax.Array,
        key: jax.Array,
        value: jax.Array,
        layer: Any,
        cache_index: jax.Array,
        mask: Mask,
    ) -> tuple[jax.Array, Any]:
        """Writes one token of each row into a layer, then attends from it to that layer."""


C = TypeVar("C", bound=Cache)


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
        self, x: Float[Array, "B L d"], rope: ApplyRope, attend: AttendAndKeep, drop: Drop
    ) -> tuple[jax.Array, Any]:
        """Runs the block: (B, L, d) -> (B, L, d), and the second result of `attend`."""
        pre = self.config.norm_position == "pre"
        query, key, value = self._project(self.attention_norm(x) if pre else x)
        attended, kept = attend(rope(query), rope(key), value)
        attended = self.output(attended.reshape(*x.shape[:-1], -1))
        x = x + drop(attended if pre else self.attention_norm(attended), 0)
        hidden = self.mlp(self.mlp_norm(x) if pre else x)
        return x + drop(hidden if pre else self.mlp_norm(hidden), 1), kept

    def _project(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Projects (B, L, d) to queries (B, L, H, head_dim), keys, values (B, L, K, head_dim)."""
        query, key, value = self.query(x), self.key(x), self.value(x)
        if x.shape[1] == 1:
            # Otherwise a TPU's compiler lays kernels and cache out for the heads of these few
            # tokens, and copies both in every step (docs/performance.md).
            query, key, value = jax.lax.optimization_barrier((query, key, value))
        if self.config.qk_norm == "full":
            query, key = self._normed(query, key)

        def split(y: jax.Array) -> jax.Array:
            return y.reshape(*y.shape[:-1], -1, self.config.head_dim)

        query, key, value = split(query), split(key), split(value)
        if self.config.qk_norm == "head":
            query, key = self._normed(query, key)
        return query, key, value

    def _normed(self, query: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        assert self.query_norm is not None and self.key_norm is not None
        return self.query_norm(query), self.key_norm(key)


class LanguageModel(nnx.Module):
    """Embeddings, blocks, final norm and head."""

    def __init__(self, config: LlmConfig, *, key: jax.Array) -> None:
        keys = jax.random.split(key, 5)
        width = config.width
        # A tied table is also the head, whose logits should start near 0. An untied one starts as
        # large as the outputs of the blocks, or the first block would dominate the words.
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
        # Of the rows of the table and the outputs of the head where they are int8: `int8_weights`.
        self.embedding_scale: nnx.Param | None = nnx.data(None)
        self.head_scale: nnx.Param | None = nnx.data(None)

    def embed(self, input_ids: Int[Array, "B L"], dtype: DTypeLike) -> Float[Array, "B L d"]:
        """Embeds (B, L) ids -> (B, L, d); padding (-1) like id 0, as no query sees it."""
        base = self.config.vocab_size
        ids = jnp.maximum(input_ids, 0)
        rows = jnp.minimum(ids, base - 1)
        known = self.embedding[...][rows]
        if self.embedding_scale is not None:
            known = known * self.embedding_scale[...][rows][..., None]
        extra = self.extra_embedding[...][jnp.clip(ids - base, 0)]
        return jnp.where((ids < base)[..., None], known, extra).astype(dtype)

    def logits(self, hidden: Float[Array, "*batch d"]) -> Float[Array, "*batch vocab"]:
        """Returns logits: (..., d) -> (..., V) float32; the extra tokens cannot be predicted."""
        head = self.embedding[...].T if self.head is None else self.head[...]
        scale = self.embedding_scale if self.head is None else self.head_scale
        if scale is not None:
            return scaled_product(hidden, head, scale[...], jnp.float32)
        return jnp.dot(hidden, head.astype(hidden.dtype), preferred_element_type=jnp.float32)

    def __call__(
        self,
        x: Float[Array, "B L d"],
        positions: Int[Array, "B L"],
        mask: Mask,
        *,
        response: Bool[Array, "B L"] | None = None,
        key: jax.Array | None = None,
        remat: bool = False,
    ) -> Float[Array, "B L d"]:
        """Runs all tokens at once.

        Args:
          x: (B, L, d) embeddings, visual features added.
          positions: (B, L) int.
          mask: the pairs of tokens that may attend.
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
        self, x: Float[Array, "B L d"], positions: Int[Array, "B L"], mask: Mask, capacity: int
    ) -> tuple[
        Float[Array, "B L d"], Float[Array, "layers B C K h"], Float[Array, "layers B C K h"]
    ]:
        """Runs all tokens without dropout, and returns keys and values too.

        Args:
          x: (B, L, d) embeddings.
          positions: (B, L) int.
          mask: the pairs of tokens that may attend.
          capacity: C, L or more; keys and values are padded to it with zeros.

        Returns:
          hidden states (B, L, d) after the final norm; rotated keys and values of all layers,
          (layers, B, C, K, head_dim) each.
        """
        padding = [(0, 0), (0, capacity - x.shape[1]), (0, 0), (0, 0)]

        def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, Any]:
            return attention(q, k, v, mask=mask), (jnp.pad(k, padding), jnp.pad(v, padding))

        hidden, (keys, values) = self._run(x, positions, attend)
        return hidden, keys, values

    def extend(
        self,
        x: Float[Array, "B Q d"],
        positions: Int[Array, "B Q"],
        mask: Mask,
        keys: Float[Array, "layers B before K h"],
        values: Float[Array, "layers B before K h"],
    ) -> tuple[
        Float[Array, "B Q d"], Float[Array, "layers B Q K h"], Float[Array, "layers B Q K h"]
    ]:
        """Runs tokens that come after others, of which keys and values are there.

        Args:
          x: (B, Q, d) embeddings.
          positions: (B, Q) int.
          mask: of Q queries, and of the tokens before and these as keys.
          keys, values: (layers, B, before, K, head_dim) of the tokens before.

        Returns:
          what `prefill` returns, of x alone.
        """

        def attend(q: jax.Array, k: jax.Array, v: jax.Array, *before: jax.Array) -> Any:
            joined = [
                jnp.concatenate([old, new.astype(old.dtype)], axis=1)
                for old, new in zip(before, (k, v), strict=True)
            ]
            return attention(q, *joined, mask=mask), (k, v)

        hidden, (keys, values) = self._run(x, positions, attend, before=(keys, values))
        return hidden, keys, values

    def step(
        self,
        x: Float[Array, "B 1 d"],
        positions: Int[Array, "B 1"],
        mask: Mask,
        cache: C,
        cache_index: Int[Array, "*rows"],
    ) -> tuple[jax.Array, C]:
        """Runs one token of each row against the cache.

        Args:
          x: (B, 1, d).
          positions: (B, 1) int.
          mask: the cache indices that the token sees, its own included.
          cache: keys and values of the tokens before.
          cache_index: () int, the index in the cache of the new token; where the cache has rows
            of unequal length, (B,).

        Returns:
          (B, 1, d) after the final norm, and the cache with the token.
        """
        frequencies, magnitudes = (jnp.asarray(t) for t in rotary_tables(self.config))

        def run(block: LlmBlock, layer: Any, x: jax.Array, cache: C) -> tuple[jax.Array, C]:
            def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, C]:
                return cache.attend(q, k, v, layer, cache_index, mask)

            x, cache = block(
                shard_activations(x),
                lambda y: apply_rope(y, positions, frequencies[layer], magnitudes[layer]),
                attend,
                lambda y, _: y,
            )
            return shard_activations(x), cache

        x, cache = cache.run_blocks(run, self.blocks, x)
        return self.final_norm(x), cache

    def _run(
        self,
        x: jax.Array,
        positions: jax.Array,
        attend: Callable[..., tuple[jax.Array, Any]],
        response: jax.Array | None = None,
        key: jax.Array | None = None,
        remat: bool = False,
        before: tuple[jax.Array, ...] = (),
    ) -> tuple[jax.Array, Any]:
        """Runs the blocks; `attend` also gets its layer of each of the arrays of `before`."""
        frequencies, magnitudes = (jnp.asarray(t) for t in rotary_tables(self.config))
        keys = None if key is None else jax.random.split(key, self.config.layers)

        def body(x: jax.Array, per_layer: tuple[Any, ...]) -> tuple[jax.Array, Any]:
            block, frequency, magnitude, layer_key, own = per_layer
            x, kept = block(
                shard_activations(x),
                lambda y: apply_rope(y, positions, frequency, magnitude),
                lambda q, k, v: attend(q, k, v, *own),
                residual_dropout(self.config, response, layer_key),
            )
            return shard_activations(x), kept

        per_layer = (self.blocks, frequencies, magnitudes, keys, before)
        x, kept = jax.lax.scan(jax.checkpoint(body) if remat else body, x, per_layer)
        return self.final_norm(x), kept


def residual_dropout(config: LlmConfig, response: jax.Array | None, key: jax.Array | None) -> Drop:
    """Returns the dropout of a sub-layer's output, before the residual sum.

    With a `response_residual_dropout` of 0 all tokens have the plain rate, otherwise answers and
    prompts have one each. Source: olmo/nn/llm.py `Dropout`.
    """
    plain, answer = config.residual_dropout, config.response_residual_dropout
    if key is None or (plain == 0.0 and answer == 0.0):
        return lambda x, _: x
    rate: Any = plain
    if answer > 0.0:
        if response is None:
            raise ValueError("response_residual_dropout needs `response`, the tokens of answers")
        rate = jnp.where(response, answer, plain)[..., None]

    def drop(x: jax.Array, sublayer: int) -> jax.Array:
        keep = jax.random.bernoulli(jax.random.fold_in(key, sublayer), 1.0 - rate, x.shape)
        return (jnp.where(keep, x, 0) / (1.0 - rate)).astype(x.dtype)

    return drop
