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
      budget: of a row, unless `add` gets another.
      rows: seen so far.
      used: sum over them of each of the `SIZES`, and of `examples`.
      room: sum over them of the budgets, for each of the `SIZES`.
    """

    budget: Budget
    rows: int = 0
    used: dict[str, int] = field(default_factory=lambda: dict.fromkeys((*SIZES, "examples"), 0))
    room: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SIZES, 0))

    def add(self, sizes: Mapping[str, np.ndarray | int], budget: Budget | None = None) -> None:
        """Count rows.

        Args:
          sizes: of one row or, as (B,) arrays, of several; see `rows.row_sizes`.
          budget: of each of them, by default the attribute.
        """
        rows = np.size(sizes["tokens"])
        self.rows += rows
        for key in SIZES:
            self.room[key] += rows * getattr(budget or self.budget, key)
        for key in self.used:
            self.used[key] += int(np.sum(sizes[key]))

    def as_dict(self) -> dict[str, float]:
        """Used shares of the `SIZES`, and `examples`, which is their number in a row.

        Empty before the first row.
        """
        if not self.rows:
            return {}
        shares = {key: self.used[key] / max(self.room[key], 1) for key in SIZES}
        return {**shares, "examples": self.used["examples"] / self.rows}
