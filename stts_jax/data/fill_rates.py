"""How full rows are: the room that is paid for and not used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from stts_jax.budget import Budget
from stts_jax.data.rows import SIZES

# A budget that is used up to this share is what ends rows.
FULL = 0.9


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

    def advice(self) -> str | None:
        """What to change so that the LLM's tokens are used, None if they are."""
        shares = self.as_dict()
        if not shares or shares["tokens"] >= FULL:
            return None
        share = f"rows use {shares['tokens']:.0%} of their tokens"
        if shares["examples"] >= FULL * self.budget.examples:
            return (
                f"{share}, as they may hold {self.budget.examples} examples at most; raise "
                "data.row_examples"
            )
        others = [key for key in SIZES if key != "tokens"]
        fullest = max(others, key=lambda key: shares[key])
        if shares[fullest] < FULL:
            return f"{share}; examples hardly fit together, make rows larger or lower max_frames"
        # What rows would use if the fullest budget were used up.
        tokens = self.used["tokens"] / self.rows / shares[fullest]
        label = fullest.replace("_before", " before pruning")
        return (
            f"{share}, as their {label} are used up; lower data.row_text_tokens by "
            f"{self.budget.tokens - tokens:.0f}, or raise data.row_frames by "
            f"{self.budget.tokens / tokens - 1:.0%}"
        )
