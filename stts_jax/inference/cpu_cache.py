"""A key-value cache for decoding on a CPU, about twice as fast there (docs/performance.md).

In a scan over stacked layers, XLA on a CPU copies the parameters and the cache of each layer out of
their stacks before it multiplies one token with them. Here every layer has arrays of its own, what
a step only reads is apart from what it writes, and keys and values are laid out for these products.
The copy of the parameters takes memory, so large models keep the `KeyValueCache`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from itertools import accumulate
from operator import add
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from stts_jax.attention import Mask
from stts_jax.attention.masks import MASK_VALUE, as_array
from stts_jax.inference.cache import KeyValueCache
from stts_jax.model.llm import C
from stts_jax.pytrees import register_pytree

# Bytes of all blocks: smaller ones decode no faster and compile slower, larger ones may not fit
# into memory twice.
_LEAST_BYTES, MOST_BYTES = 2**24, 2**31
# A few rows are multiplied with matrices this wide at one and a half times the rate of wider ones.
_PART = 64


def decoding_cache(
    cache: KeyValueCache, blocks: Any, max_new_tokens: int
) -> KeyValueCache | CpuCache:
    """Returns a cache for decoding: a `CpuCache` on a CPU if the blocks are small, else `cache`.

    Args:
      cache: keys and values of the prompts, with room for the answers at the end.
      blocks: the stacked blocks of the LLM.
      max_new_tokens: cache indices for the answers.
    """
    if jax.default_backend() != "cpu" or not copied_bytes(jax.tree.leaves(blocks)):
        return cache
    layers, length = range(len(cache.keys)), cache.keys.shape[2] - max_new_tokens
    return CpuCache(
        blocks_by_layer(blocks, len(layers)),
        tuple(_part_of(cache, i, slice(length)) for i in layers),
        tuple(_part_of(cache, i, slice(length, None)) for i in layers),
    )


def _part_of(cache: KeyValueCache, layer: int, part: slice) -> LayerCache:
    return LayerCache.of(cache.keys[layer, :, part], cache.values[layer, :, part])


def blocks_by_layer(blocks: Any, layers: int) -> tuple[Any, ...]:
    """Returns a copy of each of the stacked blocks of an LLM of so many layers."""
    return tuple(jax.tree.map(lambda leaf, i=i: leaf[i], blocks) for i in range(layers))


def copied_bytes(blocks: Iterable[Any]) -> int:
    """Returns the bytes that a CPU's cache copies of these blocks, the arrays of all layers."""
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in blocks)
    return size if _LEAST_BYTES <= size <= MOST_BYTES else 0


@register_pytree
@dataclass(frozen=True)
class LayerCache:
    """Keys and values of one layer, at C cache indices.

    Attributes:
      keys: (B, K, head_dim, C), rotated.
      values: (B, K, parts, C, head_dim / parts).
    """

    keys: jax.Array
    values: jax.Array

    @property
    def length(self) -> int:
        """Returns C."""
        return self.keys.shape[3]

    @staticmethod
    def of(keys: jax.Array, values: jax.Array) -> LayerCache:
        """Lays out (B, C, K, head_dim) of each."""
        width = values.shape[-1]
        parts = width // _PART if width % _PART == 0 else 1
        values = values.reshape(*values.shape[:-1], parts, -1)
        return LayerCache(jnp.moveaxis(keys, 1, 3), jnp.moveaxis(values, 1, 3))

    def rows(self) -> tuple[jax.Array, jax.Array]:
        """Returns keys and values as (B, C, K, head_dim) each, the reverse of `of`."""
        values = jnp.moveaxis(self.values, 3, 1)
        return jnp.moveaxis(self.keys, 3, 1), values.reshape(*values.shape[:3], -1)

    def write(self, new: LayerCache, cache_index: jax.Array) -> LayerCache:
        """Writes the keys and values of one token of each row."""

        def put(old: jax.Array, new: jax.Array) -> jax.Array:
            new = new.astype(old.dtype)
            return jax.lax.dynamic_update_slice_in_dim(old, new, cache_index, 3)

        return LayerCache(put(self.keys, new.keys), put(self.values, new.values))

    def write_each(self, new: LayerCache, cache_index: jax.Array) -> LayerCache:
        """Writes the keys and values of one token of each row, at an index of its own."""

        def put(row: jax.Array, old: jax.Array, new: jax.Array) -> jax.Array:
            start = (row, 0, 0, cache_index[row], 0)[: old.ndim]
            one = jax.lax.dynamic_slice_in_dim(new, row, 1, axis=0).astype(old.dtype)
            return jax.lax.dynamic_update_slice(old, one, start)

        # A scatter goes by elements. Without the loop XLA writes the last row twice, for the
        # product and for the next step, each into a copy of the cache.
        return jax.lax.fori_loop(
            0,
            len(self.keys),
            lambda row, cache: jax.tree.map(partial(put, row), cache, new),
            self,
        )

    def scores(self, query: jax.Array) -> jax.Array:
        """Multiplies G queries for each key head: (B, K, G, head_dim) -> (B, K, G, C) float32."""
        return _product(query, self.keys)

    def weighted(self, weights: jax.Array) -> jax.Array:
        """Sums the values: (B, K, G, C) weights -> (B, K, G, head_dim) float32."""
        rows, key_heads, parts = self.values.shape[:3]
        shape = (rows, key_heads, parts, *weights.shape[2:])
        weights = jnp.broadcast_to(weights[:, :, None].astype(self.values.dtype), shape)
        sums = jnp.swapaxes(_product(weights, self.values), 2, 3)
        return sums.reshape(*sums.shape[:3], -1)


@register_pytree
@dataclass(frozen=True)
class CpuCache:
    """Keys and values by layer, and a copy of the blocks by layer.

    Attributes:
      blocks: the blocks of the LLM.
      prompt: keys and values of the prompts.
      answer: keys and values of the answers, at the cache indices behind those.
    """

    blocks: tuple[Any, ...]
    prompt: tuple[LayerCache, ...]
    answer: tuple[LayerCache, ...]

    def stacked(self) -> KeyValueCache:
        """Returns the keys and values of all layers as one array each, answers last."""
        layers = [
            [jnp.concatenate(pair, axis=1) for pair in zip(*parts, strict=True)]
            for parts in (
                (prompt.rows(), answer.rows())
                for prompt, answer in zip(self.prompt, self.answer, strict=True)
            )
        ]
        keys, values = (jnp.stack(arrays) for arrays in zip(*layers, strict=True))
        return KeyValueCache(keys, values)

    def run_blocks(
        self, run: Callable[..., tuple[jax.Array, CpuCache]], blocks: Any, x: jax.Array
    ) -> tuple[jax.Array, CpuCache]:
        """Runs the cache's own blocks one after the other; see `KeyValueCache.run_blocks`."""
        del blocks
        return run_each(run, self.blocks, x, self)

    def attend(
        self,
        query: Float[Array, "B 1 H h"],
        key: Float[Array, "B 1 K h"],
        value: Float[Array, "B 1 K h"],
        layer: int,
        cache_index: Int[Array, ""],
        mask: Mask,
    ) -> tuple[jax.Array, CpuCache]:
        """Writes one token of each row, then attends from it; see `KeyValueCache.attend`."""
        prompt, answer = self.prompt[layer], self.answer[layer]
        answer = answer.write(LayerCache.of(key, value), cache_index - prompt.length)
        answers = (*self.answer[:layer], answer, *self.answer[layer + 1 :])
        out = attend_to([prompt, answer], query, mask)
        return out.astype(value.dtype), replace(self, answer=answers)


def run_each(
    run: Callable[..., tuple[jax.Array, C]], blocks: Sequence[Any], x: jax.Array, cache: C
) -> tuple[jax.Array, C]:
    """Runs blocks one after the other; see `KeyValueCache.run_blocks`."""
    for layer, block in enumerate(blocks):
        x, cache = run(block, layer, x, cache)
    return x, cache


def attend_to(
    parts: Sequence[LayerCache], query: Float[Array, "B 1 H h"], mask: Mask
) -> Float[Array, "B 1 H h"]:
    """Attends from one token of each row to a layer's cache.

    Args:
      parts: of the cache, in the order of its indices.
      query: (B, 1, H, head_dim).
      mask: the cache indices that the token sees.

    Returns:
      (B, 1, H, head_dim) float32; 0 for a token that sees none.
    """
    rows, key_heads, width, _ = parts[0].keys.shape
    allowed = as_array(mask)[:, None]
    grouped = query.reshape(rows, key_heads, -1, width)
    scores = jnp.concatenate([part.scores(grouped) for part in parts], axis=-1)
    scores = jnp.where(allowed, scores * width**-0.5, MASK_VALUE)
    weights = jnp.exp(scores - scores.max(-1, keepdims=True))
    starts = list(accumulate(part.length for part in parts[:-1]))
    of_parts = zip(parts, jnp.split(weights, starts, axis=-1), strict=True)
    sums = reduce(add, [part.weighted(own) for part, own in of_parts])
    out = sums / weights.sum(-1, keepdims=True)
    return jnp.where(allowed.any(-1, keepdims=True), out, 0).reshape(query.shape)


def _product(left: jax.Array, right: jax.Array) -> jax.Array:
    """Multiplies in float32; the barriers keep XLA from transposing the product."""
    left, right = jax.lax.optimization_barrier((left, right))
    return jax.lax.optimization_barrier(jnp.matmul(left, right, preferred_element_type=jnp.float32))
