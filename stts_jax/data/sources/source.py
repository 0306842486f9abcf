"""A dataset as it is read in a run."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from stts_jax.data.datasets.base import Dataset, SourceExample
from stts_jax.data.text.message_weight import MessageWeight
from stts_jax.data.text.prompts import plainly_worded


@dataclass(frozen=True)
class Source:
    """A dataset as it is read in a run.

    Attributes:
      dataset: where examples are from.
      rate: how often it is drawn; those of a split add up to 1.
      indices: of the examples that are taken, all if None.
      weight: of its answers in the loss, if other than the rest's.
      p_high_res: probability of many crops of its images, if other than the rest's.
      plain: whether its questions are worded plainly.
    """

    dataset: Dataset
    rate: float = 1.0
    indices: np.ndarray | None = None
    weight: MessageWeight | None = None
    p_high_res: float | None = None
    plain: bool = False

    def __len__(self) -> int:
        return len(self.dataset) if self.indices is None else len(self.indices)

    def number(self, index: int) -> int:
        """Number in the dataset of the `index`-th example that is taken."""
        return index if self.indices is None else int(self.indices[index])

    def called(self, index: int) -> str:
        """The name of the `index`-th example that is taken, in messages."""
        return self.dataset.called(self.number(index))

    def fingerprint(self) -> str:
        """Changes where the examples that are taken do."""
        if self.indices is None:
            return self.dataset.fingerprint()
        taken = hashlib.sha256(self.indices.astype(np.int64).tobytes()).hexdigest()[:16]
        return f"{self.dataset.fingerprint()}:{taken}"

    def get(self, index: int, rng: np.random.RandomState) -> SourceExample:
        """The `index`-th example that is taken."""
        found = self.dataset.get(self.number(index), rng)
        return plainly_worded(found) if self.plain else found
