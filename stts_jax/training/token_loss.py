"""Sums losses over the tokens of rows that have a weight, in chunks whose logits exist at a time.

Source: olmo/train/trainer.py:703-837; docs/reference.md#loss.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from stts_jax.layers.gather import static_nonzero, take_rows

# Tokens of each row whose logits exist at the same time.
CHUNK = 512


def token_loss(
    hidden: jax.Array,
    labels: jax.Array,
    weights: jax.Array,
    logits_of: Callable[[jax.Array], jax.Array],
    z_loss: float,
) -> dict[str, jax.Array]:
    """Returns losses summed over all tokens, chunk by chunk; see `summed_over_chunks`.

    Args:
      hidden: (B, L, d) after the final norm.
      labels: (B, L) int, the next token; anything where the weight is 0.
      weights: (B, L) float, 0 or less where there is no loss.
      logits_of: (B, chunk, d) -> (B, chunk, V) float32.
      z_loss: weight of the squared log-partition.

    Returns:
      those of `sums_of_logits`.
    """

    def sums_of(weights: jax.Array, hidden: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
        return sums_of_logits(logits_of(hidden), labels, weights, z_loss)

    return summed_over_chunks(sums_of, *answers_first(weights, hidden, labels))


def answers_first(
    weights: jax.Array, *arrays: jax.Array, length: int | None = None
) -> tuple[jax.Array, ...]:
    """Moves the tokens of each row that have a weight to its start, in order.

    Args:
      weights: (B, L) float, 0 or less where there is no loss.
      arrays: (B, L, ...) each.
      length: of the result, by default L; it is rounded up to whole chunks.

    Returns:
      weights and arrays, (B, length, ...) each, 0 behind the end of the row.
    """
    length = weights.shape[1] if length is None else length
    order, _ = static_nonzero(weights > 0, length + -length % min(CHUNK, length))
    return tuple(take_rows(x, order) for x in (weights, *arrays))


def summed_over_chunks(
    sums_of: Callable[..., dict[str, jax.Array]], weights: jax.Array, *arrays: jax.Array
) -> dict[str, jax.Array]:
    """Returns sums over all tokens that have a weight; the backward recomputes each chunk.

    A chunk without any is not computed: of a row that is mostly video only the answers get logits.
    Each chunk has the same columns of every row, so that rows stay on their devices.

    Args:
      sums_of: `(weights, *arrays) -> sums` of a chunk, (B, chunk, ...) each.
      weights: (B, L) of `answers_first`.
      arrays: (B, L, ...) of it.
    """
    size = min(CHUNK, weights.shape[1])

    def chunks_of(x: jax.Array) -> jax.Array:
        chunked = x.reshape(x.shape[0], -1, size, *x.shape[2:])
        return jnp.moveaxis(chunked, 1, 0)

    chunks = tuple(map(chunks_of, (weights, *arrays)))
    shapes = jax.eval_shape(sums_of, *(x[0] for x in chunks))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    @jax.checkpoint
    def add(
        sums: dict[str, jax.Array], chunk: tuple[jax.Array, ...]
    ) -> tuple[dict[str, jax.Array], None]:
        bears_loss = (chunk[0] > 0).any()
        more = jax.lax.cond(bears_loss, sums_of, lambda *_: zeros, *chunk)
        return jax.tree.map(jnp.add, sums, more), None

    return jax.lax.scan(add, zeros, chunks)[0]


def sums_of_logits(
    logits: jax.Array, labels: jax.Array, weights: jax.Array, z_loss: float
) -> dict[str, jax.Array]:
    """Returns the losses of a chunk of tokens, summed.

    Args:
      logits: (B, chunk, V) float32.
      labels, weights: (B, chunk).
      z_loss: weight of the squared log-partition.

    Returns:
      `cross_entropy` and `z_loss` summed with weights, `weight` their sum, and `correct`, the
      weighted count of tokens predicted rightly.
    """
    partition = jax.nn.logsumexp(logits, axis=-1)
    label = jnp.take_along_axis(logits, known_labels(logits, labels)[..., None], axis=-1)[..., 0]
    return {
        "cross_entropy": (weights * (partition - label)).sum(),
        "z_loss": (weights * z_loss * jnp.square(partition)).sum(),
        "weight": weights.sum(),
        "correct": (weights * (logits.argmax(-1) == labels)).sum(),
    }


def known_labels(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns labels within the vocabulary: visual tokens are labels too, without weight."""
    return jnp.clip(labels, 0, logits.shape[-1] - 1)
