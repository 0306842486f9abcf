"""Weighted next-token loss with z-term, without logits of the whole row at once.

Source: olmo/train/trainer.py:261-277 and 703-837; MODEL 2.6.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from stts_jax.budget import Budget
from stts_jax.config import TrainConfig
from stts_jax.model.video_language_model import VideoLanguageModel

# Tokens whose logits exist at the same time.
CHUNK = 1024


def token_loss(
    hidden: jax.Array,
    labels: jax.Array,
    weights: jax.Array,
    logits_of: Callable[[jax.Array], jax.Array],
    z_loss: float,
) -> dict[str, jax.Array]:
    """Sums over all tokens, chunk by chunk; the logits of a chunk are made again in the backward.

    Args:
      hidden: (B, L, d) after the final norm.
      labels: (B, L) int, the next token; anything where the weight is 0.
      weights: (B, L) float, 0 or less where there is no loss.
      logits_of: (chunk, d) -> (chunk, V) float32.
      z_loss: weight of the squared log-partition.

    Returns:
      `cross_entropy` and `z_loss` summed with weights, `weight` their sum, and `correct`, the
      weighted count of tokens predicted rightly.
    """
    hidden = hidden.reshape(-1, hidden.shape[-1])
    weights = jnp.maximum(weights.reshape(-1), 0.0)
    size = min(CHUNK, hidden.shape[0])
    missing = -hidden.shape[0] % size
    chunks = tuple(
        jnp.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1)).reshape(-1, size, *x.shape[1:])
        for x in (hidden, labels.reshape(-1), weights)
    )

    @jax.checkpoint
    def add(
        sums: dict[str, jax.Array], chunk: tuple[jax.Array, ...]
    ) -> tuple[dict[str, jax.Array], None]:
        hidden, labels, weights = chunk
        logits = logits_of(hidden)
        partition = jax.nn.logsumexp(logits, axis=-1)
        # Visual tokens are labels too, without weight and beyond what can be predicted.
        known = jnp.clip(labels, 0, logits.shape[-1] - 1)
        label = jnp.take_along_axis(logits, known[:, None], axis=-1)[:, 0]
        more = {
            "cross_entropy": (weights * (partition - label)).sum(),
            "z_loss": (weights * z_loss * jnp.square(partition)).sum(),
            "weight": weights.sum(),
            "correct": (weights * (logits.argmax(-1) == labels)).sum(),
        }
        return jax.tree.map(jnp.add, sums, more), None

    zero = jnp.zeros((), jnp.float32)
    start = dict.fromkeys(("cross_entropy", "z_loss", "weight", "correct"), zero)
    return jax.lax.scan(add, start, chunks)[0]


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
