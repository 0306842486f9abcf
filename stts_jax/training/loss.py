"""Computes the weighted next-token loss with z-loss, in chunks of the tokens that have a weight.

Source: olmo/train/trainer.py:261-277 and 703-837; docs/reference.md#loss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from stts_jax.batch import Batch
from stts_jax.budget import Budget
from stts_jax.config import ModelConfig, TrainConfig
from stts_jax.layers.gather import static_nonzero, take_rows
from stts_jax.model.video_language_model import VideoLanguageModel
from stts_jax.model.vision import frames_of
from stts_jax.pruning.frames import FrameTable
from stts_jax.pruning.temporal_loss import compared_frames

# Tokens of each row whose logits exist at the same time.
CHUNK = 512


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Counted:
    """Denominators of means, () float32 each.

    Attributes:
      weight: sum of the loss weights of all tokens.
      compared: number of frames that the temporal loss compares with the one before.
      frames: number of frames that are no padding.
    """

    weight: jax.Array
    compared: jax.Array
    frames: jax.Array

    @staticmethod
    def of(weight: jax.Array, frames: FrameTable) -> Counted:
        """Returns the counts of rows, given the sum of their tokens' weights."""
        return Counted(
            jnp.maximum(weight, 1e-6),
            jnp.maximum(compared_frames(frames).sum(), 1.0),
            jnp.maximum(frames.real.sum(), 1),
        )

    @staticmethod
    def of_batch(batch: Batch, config: ModelConfig) -> Counted:
        """Returns the counts of a batch; tokens that the model drops have no weight."""
        return Counted.of(batch.text.loss_masks.sum(), frames_of(batch, config))


def token_loss(
    hidden: jax.Array,
    labels: jax.Array,
    weights: jax.Array,
    logits_of: Callable[[jax.Array], jax.Array],
    z_loss: float,
) -> dict[str, jax.Array]:
    """Returns losses summed over all tokens, chunk by chunk; the backward recomputes the logits.

    The tokens of each row that have a weight go first, and a chunk without any is not computed: of
    a row that is mostly video only the answers get logits. Each chunk has the same columns of every
    row, so that rows stay on their devices.

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
    order, _ = static_nonzero(weights > 0, length + -length % size)

    def chunks_of(x: jax.Array) -> jax.Array:
        first = take_rows(x, order)
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
    batch: Batch,
    budget: Budget,
    config: TrainConfig,
    *,
    key: jax.Array,
    train: bool,
    counted: Counted | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the training loss: language loss per unit of weight, plus the temporal loss.

    Args:
      model: the model.
      batch: see `Batch`.
      budget: static sizes.
      config: has the weight of the z-loss.
      key: for dropout and method `random`.
      train: whether dropout is on.
      counted: counts of the batch that these rows are a part of, by which all is divided, so that
        losses and metrics of the parts add up to those of the batch; by default of these rows.

    Returns:
      the loss, and scalars to log: `loss` (cross entropy), `z_loss`, `auxiliary_loss`, `accuracy`
      (of answer tokens), `kept` (share of the videos' tokens), `tokens` (seen by the LLM).
    """
    hidden, rows = model(batch, budget, key=key, train=train)
    sums = token_loss(
        hidden, rows.text.labels, rows.text.loss_masks, model.llm.logits, config.z_loss
    )
    own = Counted.of(sums["weight"], rows.vision.frames)
    counted = own if counted is None else counted
    auxiliary = rows.vision.temporal_loss * (own.compared / counted.compared)
    keep = rows.vision.plan.keep
    total = (sums["cross_entropy"] + sums["z_loss"]) / counted.weight + auxiliary
    metrics = {
        "loss": sums["cross_entropy"] / counted.weight,
        "z_loss": sums["z_loss"] / counted.weight,
        "auxiliary_loss": auxiliary,
        "accuracy": sums["correct"] / counted.weight,
        "kept": keep.sum() / (counted.frames * keep.shape[-1]),
        "tokens": rows.tokens.valid.sum(),
    }
    return total, metrics
