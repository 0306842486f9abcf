"""Weights of an example's answers in the loss."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np


@dataclass(frozen=True)
class MessageWeight:
    """Loss weight of the tokens of an answer; None leaves a field to another setting.

    Long answers and videos with many questions count for more than short and few, but with both
    roots less than in proportion. Source: docs/reference.md#loss-weights.

    Attributes:
      constant: factor.
      root_subsegments: divide by the root of the number of conversations about the same images.
      root_length: times 2 over the root of the number of answer tokens of the conversation.
    """

    constant: float | None = None
    root_subsegments: bool | None = None
    root_length: bool | None = None

    def overridden_by(self, other: MessageWeight | float | None) -> MessageWeight:
        """These settings with those of `other` that are set; a number is a `constant`."""
        if other is None:
            return self
        if not isinstance(other, MessageWeight):
            other = MessageWeight(constant=float(other))
        chosen = {}
        for field in fields(self):
            own, theirs = getattr(self, field.name), getattr(other, field.name)
            chosen[field.name] = own if theirs is None else theirs
        return MessageWeight(**chosen)

    def of_answers(self, has_loss: np.ndarray) -> np.ndarray:
        """Weights of the tokens of one conversation, before `of_branch`.

        Args:
          has_loss: (n,) bool, which tokens are those of answers.

        Returns:
          (n,) float32, 0 where there is no loss.
        """
        weights = has_loss.astype(np.float32)
        count = int(has_loss.sum())
        if self.root_length and count:
            weights *= np.float32(2.0 / math.sqrt(count))
        if self.constant is not None:
            weights *= np.float32(self.constant)
        return weights

    def of_branch(self, weights: np.ndarray, branches: int) -> np.ndarray:
        """The same of a conversation that is one of `branches` about the same images."""
        return weights / np.float32(math.sqrt(branches)) if self.root_subsegments else weights


# What published models were trained with, and the name that the reference gives it.
LOSS_WEIGHTS = {
    "uniform": MessageWeight(),
    "root_subsegments": MessageWeight(root_subsegments=True),
    "root_subsegments_root_tokens": MessageWeight(root_subsegments=True, root_length=True),
}
