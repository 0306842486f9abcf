"""Computes the weighted next-token loss with z-loss, in chunks of the tokens that have a weight.

Source: olmo/train/trainer.py:261-277 and 703-837; docs/reference.md#loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from stts_jax.batch import Batch
from stts_jax.budget import Budget
from stts_jax.config import ModelConfig, TrainConfig
from stts_jax.model.video_language_model import VideoLanguageModel
from stts_jax.model.vision import frames_of
from stts_jax.pruning.frames import FrameTable
from stts_jax.pruning.temporal_loss import compared_frames
from stts_jax.training.distillation import Distilled, Teacher, distilled_token_loss
from stts_jax.training.token_loss import token_loss


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


def loss_fn(
    model: VideoLanguageModel,
    batch: Batch,
    budget: Budget,
    config: TrainConfig,
    *,
    key: jax.Array,
    train: bool,
    counted: Counted | None = None,
    teacher: Teacher | None = None,
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
      teacher: whose answers are distilled, if any.

    Returns:
      the loss, and scalars to log: `loss` (cross entropy), `z_loss`, `auxiliary_loss`, `accuracy`
      (of answer tokens), `kept` (share of the videos' tokens), `tokens` (seen by the LLM); with a
      teacher also those of `Distilled.metrics`.
    """
    hidden, rows = model(batch, budget, key=key, train=train)
    text, logits_of = rows.text, model.llm.logits
    if teacher is None:
        sums = token_loss(hidden, text.labels, text.loss_masks, logits_of, config.z_loss)
    else:
        answers = teacher.answers(batch, key, hidden.shape[1])
        sums = distilled_token_loss(hidden, text, logits_of, config.z_loss, answers)
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
    if config.distill.teacher:
        distilled = Distilled.of(sums, config.distill)
        total += distilled.loss / counted.weight
        metrics |= distilled.metrics(counted.weight)
    return total, metrics
