"""The memory that the arrays of one batch take, which is known before any is made."""

from __future__ import annotations

import os

from stts_jax.budget import Budget, batch_bytes
from stts_jax.config import ConfigError, ModelConfig


def require_batch_fits(budget: Budget, model: ModelConfig, rows: int, remedy: str) -> None:
    """Raise a `ConfigError` if a batch is larger than all memory of this machine.

    Args:
      budget: of each row.
      model: whose frames they are.
      rows: that this machine makes.
      remedy: ends the message.
    """
    needed = batch_bytes(budget, model, rows)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > memory:
        raise ConfigError(
            f"a batch of {rows} rows takes {needed / 1e9:.1f} GB, and this machine has "
            f"{memory / 1e9:.1f} GB of memory; {remedy}"
        )
