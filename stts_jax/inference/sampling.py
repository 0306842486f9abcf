"""Choosing the next token from its logits."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key


@dataclass(frozen=True)
class Sampling:
    """Settings for choosing the next token.

    Attributes:
      temperature: 0 is greedy.
      top_k: only the k most probable tokens, 0 for all.
      top_p: only the fewest tokens that together reach this probability.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0


def sample(logits: Float[Array, "B vocab"], sampling: Sampling, key: jax.Array) -> Int[Array, " B"]:
    """Chooses a token for each row: (B, V) logits -> (B,) int32.

    Top-k is taken before top-p, and top-p's mass is that of the whole distribution, as in the
    reference; the token that crosses `top_p` is included.
    Source: olmo/nn/beam_search.py.
    """
    if sampling.temperature == 0.0:
        return logits.argmax(-1).astype(jnp.int32)
    logits = logits / sampling.temperature
    order = jnp.argsort(logits, axis=-1, descending=True, stable=True)
    # The cut is by rank, so that ties at it don't admit more tokens.
    rank = jnp.argsort(order, axis=-1)
    count = jnp.full((logits.shape[0], 1), sampling.top_k or logits.shape[-1])
    if sampling.top_p < 1.0:
        ordered = jnp.take_along_axis(logits, order, axis=-1)
        mass = jnp.cumsum(jax.nn.softmax(ordered, axis=-1), axis=-1)
        mass_before = jnp.roll(mass, 1, axis=-1).at[:, 0].set(0.0)
        count = jnp.minimum(count, (mass_before < sampling.top_p).sum(-1, keepdims=True))
    allowed = jnp.where(rank < count, logits, -jnp.inf)
    return jax.random.categorical(key, allowed, axis=-1).astype(jnp.int32)


def sample_each(
    logits: Float[Array, "B vocab"],
    temperature: Float[Array, " B"],
    top_k: Int[Array, " B"],
    top_p: Float[Array, " B"],
    keys: Key[Array, " B"],
) -> Int[Array, " B"]:
    """Chooses a token for each row by its own settings and key, as `sample` does for it alone.

    Args:
      logits: (B, V).
      temperature, top_k, top_p: (B,) each, see `Sampling`.
      keys: (B,) random keys.
    """
    greedy = logits.argmax(-1).astype(jnp.int32)

    def drawn() -> jax.Array:
        warm = logits / jnp.where(temperature > 0, temperature, 1.0)[:, None]
        order = jnp.argsort(warm, axis=-1, descending=True, stable=True)
        rank = jnp.argsort(order, axis=-1)
        ordered = jnp.take_along_axis(warm, order, axis=-1)
        mass = jnp.cumsum(jax.nn.softmax(ordered, axis=-1), axis=-1)
        mass_before = jnp.roll(mass, 1, axis=-1).at[:, 0].set(0.0)
        count = (mass_before < top_p[:, None]).sum(-1)
        count = jnp.where(top_p < 1.0, count, logits.shape[-1])
        count = jnp.minimum(count, jnp.where(top_k > 0, top_k, logits.shape[-1]))
        allowed = jnp.where(rank < count[:, None], warm, -jnp.inf)
        draw = jax.vmap(lambda key, row: jax.random.categorical(key, row[None], axis=-1)[0])
        return jnp.where(temperature > 0, draw(keys, allowed).astype(jnp.int32), greedy)

    # Sorting a vocabulary takes longer than a small model's step, and most requests are greedy.
    tokens: jax.Array = jax.lax.cond((temperature > 0).any(), drawn, lambda: greedy)
    return tokens
