"""Distillation: a KL on answer tokens from an unpruned teacher to the model that is trained.

The KL is small where a pruned model answers almost like its teacher, so that a fixed weight soon
means nothing. Here the weight of each row is chosen so that the gradient by its logits has a given
share of the norm of the cross entropy's. Both have a closed form: p - onehot for the cross entropy
and p - q for KL(q || p), times the token's weight. Weights of rows don't depend on how rows are
shared among devices or among parts of an accumulated batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from stts_jax.batch import Batch, TextRows
from stts_jax.budget import Budget
from stts_jax.config import Config, DistillConfig
from stts_jax.model.video_language_model import VideoLanguageModel, reconfigure
from stts_jax.train_ratios import at_ratio, even_tokens
from stts_jax.training.token_loss import (
    answers_first,
    known_labels,
    summed_over_chunks,
    sums_of_logits,
)

Metrics = dict[str, jax.Array]
SELF = "self"
_KL, _LOSS, _WEIGHT, _SHARE = (f"distill/{name}" for name in ("kl", "loss", "weight", "share"))
_KL_SQUARE, _ENTROPY_SQUARE = "distill/kl_square", "distill/cross_entropy_square"


@dataclass(frozen=True)
class Answers:
    """The teacher's hidden states of answer tokens, (B, n, d), and what makes logits of them."""

    hidden: jax.Array
    logits_of: Callable[[jax.Array], jax.Array]


@dataclass(frozen=True)
class Teacher:
    """A model that reads all tokens and gets no gradient.

    Attributes:
      model: unpruned.
      budget: of rows of which nothing is dropped.
    """

    model: VideoLanguageModel
    budget: Budget

    @staticmethod
    def of_step(
        config: Config, budget: Budget, model: VideoLanguageModel, frozen: VideoLanguageModel | None
    ) -> Teacher | None:
        """Returns the teacher of a step; None without one, or where it is the model itself.

        Args:
          config: of the run, at the ratio of the step.
          budget: of a row at that ratio.
          model: that is trained.
          frozen: the model of `train.distill.teacher`, if that is a folder.
        """
        is_self = config.train.distill.teacher == SELF
        if is_self and config.model.prune.topk > 0:
            frozen = reconfigure(model, at_ratio(config, 0.0).model)
        if frozen is None:
            return None
        unpruned = dataclasses.replace(
            budget,
            patches=budget.frames * config.model.vit.patches,
            visual=budget.visual_before,
            tokens=budget.tokens_before,
        )
        unpruned = even_tokens(unpruned, config.train.mesh.context)
        return Teacher(jax.lax.stop_gradient(frozen), unpruned)

    def answers(self, batch: Batch, key: jax.Array, length: int) -> Answers:
        """Reads a batch, without dropout.

        Args:
          batch: see `Batch`.
          key: of the step.
          length: L of the model that is trained: tokens of a row with an answer, at most.
        """
        hidden, rows = self.model(batch, self.budget, key=key)
        _, first = answers_first(rows.text.loss_masks, hidden, length=length)
        return Answers(jax.lax.stop_gradient(first), self.model.llm.logits)


def distilled_token_loss(
    hidden: jax.Array,
    text: TextRows,
    logits_of: Callable[[jax.Array], jax.Array],
    z_loss: float,
    answers: Answers,
) -> dict[str, jax.Array]:
    """Returns the sums of `token_loss`, and those of `divergences`.

    Args:
      hidden: (B, L, d) after the final norm.
      text: of the kept tokens.
      logits_of: (B, chunk, d) -> (B, chunk, V) float32.
      z_loss: weight of the squared log-partition.
      answers: of the teacher.
    """

    def sums_of(
        weights: jax.Array, hidden: jax.Array, labels: jax.Array, theirs: jax.Array
    ) -> dict[str, jax.Array]:
        logits = logits_of(hidden)
        divergence = divergences(logits, answers.logits_of(theirs), labels, weights)
        return sums_of_logits(logits, labels, weights, z_loss) | divergence

    own = answers_first(text.loss_masks, hidden, text.labels)
    return summed_over_chunks(sums_of, *own, answers.hidden)


def divergences(
    logits: jax.Array, theirs: jax.Array, labels: jax.Array, weights: jax.Array
) -> dict[str, jax.Array]:
    """Returns what the distillation of each row is computed from.

    Args:
      logits: (B, n, V) float32.
      theirs: (B, n, V) of the teacher.
      labels, weights: (B, n).

    Returns:
      (B,) each: `kl`, the weighted sum of KL(teacher || model); `kl_square` and
      `cross_entropy_square`, the squared norms of the gradients of the weighted sums of KL and
      cross entropy by the logits.
    """
    log_p = jax.nn.log_softmax(logits)
    log_q = jax.nn.log_softmax(jax.lax.stop_gradient(theirs))
    q, p = jnp.exp(log_q), jnp.exp(jax.lax.stop_gradient(log_p))
    label = jnp.take_along_axis(p, known_labels(logits, labels)[..., None], axis=-1)[..., 0]
    to_label = jnp.square(p).sum(-1) - 2 * label + 1
    return {
        "kl": (weights * (q * (log_q - log_p)).sum(-1)).sum(-1),
        "kl_square": (jnp.square(weights) * jnp.square(p - q).sum(-1)).sum(-1),
        "cross_entropy_square": (jnp.square(weights) * to_label).sum(-1),
    }


@dataclass(frozen=True)
class Distilled:
    """The distillation of rows, (B,) each.

    Attributes:
      kl: weighted sum over the row's tokens.
      weight: of it in the loss; no gradient passes.
      kl_square, cross_entropy_square: see `divergences`.
    """

    kl: jax.Array
    weight: jax.Array
    kl_square: jax.Array
    cross_entropy_square: jax.Array

    @staticmethod
    def of(sums: Mapping[str, jax.Array], config: DistillConfig) -> Distilled:
        """Returns the distillation from the sums of rows; of no teacher, one that is 0."""
        if "kl" not in sums:
            zero = jnp.zeros(1, jnp.float32)
            return Distilled(zero, zero, zero, zero)
        squares = {name: jax.lax.stop_gradient(sums[name]) for name in _SQUARES}
        weight = row_weights(**squares, share=config.share, largest=config.max_weight)
        return Distilled(sums["kl"], weight, **squares)

    @property
    def loss(self) -> jax.Array:
        """The sum over all rows, with their weights."""
        return (self.weight * self.kl).sum()

    def metrics(self, weight: jax.Array) -> Metrics:
        """Returns scalars that add up over parts of a batch; `logged` makes what is logged of them.

        Args:
          weight: sum of the loss weights of all tokens of the batch.
        """
        return {
            _KL: self.kl.sum() / weight,
            _LOSS: self.loss / weight,
            _KL_SQUARE: (jnp.square(self.weight) * self.kl_square).sum() / weight**2,
            _ENTROPY_SQUARE: self.cross_entropy_square.sum() / weight**2,
        }


_SQUARES = ("kl_square", "cross_entropy_square")


def row_weights(
    kl_square: jax.Array, cross_entropy_square: jax.Array, share: float, largest: float
) -> jax.Array:
    """Returns the weight of each row's KL, with which its gradient is a share of the other's.

    Args:
      kl_square, cross_entropy_square: (B,) squared norms of the gradients, without a weight.
      share: of the norms.
      largest: weight that none exceeds, where the KL has almost no gradient.
    """
    squared = cross_entropy_square / jnp.maximum(kl_square, 1e-30)
    return jnp.minimum(share * jnp.sqrt(squared), largest)


def logged(metrics: Metrics) -> Metrics:
    """Returns the metrics of a batch with those of its distillation as they are logged.

    They are `distill/kl` for a unit of weight; `distill/weight`, the mean weight of a KL; and
    `distill/share`, the norm of its weighted gradient by the logits as a share of the cross
    entropy's. All are 0 in a step whose teacher is the model itself.
    """
    if _KL not in metrics:
        return metrics
    found = dict(metrics)
    loss, kl = found.pop(_LOSS), found[_KL]
    own, other = found.pop(_KL_SQUARE), found.pop(_ENTROPY_SQUARE)
    found[_WEIGHT] = jnp.where(kl > 0, loss / jnp.where(kl > 0, kl, 1.0), 0.0)
    found[_SHARE] = jnp.where(other > 0, jnp.sqrt(own / jnp.where(other > 0, other, 1.0)), 0.0)
    return found
