"""Weighted next-token loss with z-term, with logits of loss-bearing tokens only, in chunks.

Source: olmo/train/trainer.py:261-277 and 703-837; MODEL 2.6.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from stts_jax.budget import Budget
from stts_jax.config import TrainConfig
from stts_jax.layers.compact import compact, take_rows
from stts_jax.model.video_language_model import VideoLanguageModel

# Tokens of each row whose logits exist at the same time.
CHUNK = 512


def token_loss(
    hidden: jax.Array,
    labels: jax.Array,
    weights: jax.Array,
    logits_of: Callable[[jax.Array], jax.Array],
    z_loss: float,
) -> dict[str, jax.Array]:
    """Sums over all tokens, chunk by chunk; the logits of a chunk are made again in the backward.

    The tokens of each row that bear a loss go first, and a chunk in which no row has any is not
    computed: of a row that is mostly video only the answers get logits. Chunks are cut out of
    every row alike, so that rows stay where they are when devices share them.

    Args:
      hidden: (B, L, d) after the final norm.
      labels: (B, L) int, the next token; anything where the weight is 0.
      weights: (B, L) float, 0 or less where there is no loss.
      logits_of: (B, chunk, d) -> (B, chunk, V) float32.
      z_loss: weight of the squared log-partition.

    Returns:
      `cross_entropy` and `z_loss` summed with weights, `weight` their sum, and `correct`, the
      weighted count of tokens predicted rightly.
    """
    length = hidden.shape[1]
    size = min(CHUNK, length)
    places, _ = compact(weights > 0, length + -length % size)

    def chunks_of(x: jax.Array) -> jax.Array:
        first = take_rows(x, places)
        chunked = first.reshape(first.shape[0], -1, size, *first.shape[2:])
        return jnp.moveaxis(chunked, 1, 0)

    def sums_of(hidden: jax.Array, labels: jax.Array, weights: jax.Array) -> dict[str, jax.Array]:
        logits = logits_of(hidden)
        partition = jax.nn.logsumexp(logits, axis=-1)
        # Visual tokens are labels too, without weight and beyond what can be predicted.
        known = jnp.clip(labels, 0, logits.shape[-1] - 1)
        label = jnp.take_along_axis(logits, known[..., None], axis=-1)[..., 0]
        return {
            "cross_entropy": (weights * (partition - label)).sum(),
            "z_loss": (weights * z_loss * jnp.square(partition)).sum(),
            "weight": weights.sum(),
            "correct": (weights * (logits.argmax(-1) == labels)).sum(),
        }

    zeros = dict.fromkeys(
        ("cross_entropy", "z_loss", "weight", "correct"), jnp.zeros((), jnp.float32)
    )

    @jax.checkpoint
    def add(
        sums: dict[str, jax.Array], chunk: tuple[jax.Array, ...]
    ) -> tuple[dict[str, jax.Array], None]:
        bears_loss = (chunk[2] > 0).any()
        more = jax.lax.cond(bears_loss, sums_of, lambda *_: zeros, *chunk)
        return jax.tree.map(jnp.add, sums, more), None

    chunks = tuple(map(chunks_of, (hidden, labels, weights)))
    return jax.lax.scan(add, zeros, chunks)[0]


def loss_fn(
    model: VideoLanguageModel,
    batch: dict[str, jax.Array],
    budget: Budget,
    config: TrainConfig,
    *,
    key: jax.Array,
    train: bool,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss that is trained: language loss per unit of weight, plus the temporal loss.

    Args:
      model: the model.
      batch: the arrays of `budget.batch_arrays`.
      budget: static sizes.
      config: for the weight of the z-term.
      key: for dropout and method `random`.
      train: whether dropout is on.

    Returns:
      the loss, and scalars to log: `loss` (cross entropy), `z_loss`, `auxiliary_loss`, `accuracy`
      (of answer tokens), `kept` (share of the videos' tokens), `tokens` (seen by the LLM).
    """
    hidden, rows = model(batch, budget, key=key, train=train)
    sums = token_loss(
        hidden, rows.text["labels"], rows.text["loss_masks"], model.llm.logits, config.z_loss
    )
    weight = jnp.maximum(sums["weight"], 1e-6)
    auxiliary = rows.vision.auxiliary_loss
    total = (sums["cross_entropy"] + sums["z_loss"]) / weight + auxiliary
    real = rows.vision.frames.real.sum() * rows.vision.keep.shape[-1]
    metrics = {
        "loss": sums["cross_entropy"] / weight,
        "z_loss": sums["z_loss"] / weight,
        "auxiliary_loss": auxiliary,
        "accuracy": sums["correct"] / weight,
        "kept": rows.vision.keep.sum() / jnp.maximum(real, 1),
        "tokens": rows.tokens.valid.sum(),
    }
    return total, metrics
