"""Measures how full rows are, so that unused room is noticed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from stts_jax.budget import Budget
from stts_jax.data.packing.rows import SIZES


@dataclass
class FillRates:
    """Average shares of a budget that rows use.

    Attributes:
      budget: of every row.
      rows: seen so far.
      used: sum over them of each of the `SIZES`, and of `examples`.
    """

    budget: Budget
    rows: int = 0
    used: dict[str, int] = field(default_factory=lambda: dict.fromkeys((*SIZES, "examples"), 0))

    def add(self, sizes: Mapping[str, np.ndarray | int]) -> None:
        """Count rows.

        Args:
          sizes: of one row or, as (B,) arrays, of several; see `rows.row_sizes`.
        """
        self.rows += np.size(sizes["tokens"])
        for key in self.used:
            self.used[key] += int(np.sum(sizes[key]))

    def as_dict(self) -> dict[str, float]:
        """Used shares of the `SIZES`, and `examples`, which is their number in a row.

        Empty before the first row.
        """
        if not self.rows:
            return {}
        shares = {
            key: self.used[key] / max(self.rows * getattr(self.budget, key), 1) for key in SIZES
        }
        return {**shares, "examples": self.used["examples"] / self.rows}
