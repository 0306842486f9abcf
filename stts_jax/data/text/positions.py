"""Warns of positions that the language model has not been trained on."""

from __future__ import annotations

import logging
from functools import cache

import numpy as np

logger = logging.getLogger(__name__)


def warn_of_positions(position_ids: np.ndarray, trained: int) -> None:
    """Say once a process that an example is longer than any the LLM knows; nothing is refused.

    Rotary positions go on beyond those trained, and the reference lets them; answers may suffer.

    Args:
      position_ids: of one example, (L,); those of dropped tokens count too.
      trained: `model.llm.max_positions`.
    """
    if len(position_ids) and position_ids.max() >= trained:
        _warn(trained)


@cache
def _warn(trained: int) -> None:
    logger.warning(
        "an example takes more positions than the %d that the LLM is made for "
        "(model.llm.max_positions); of a video, a lower data.max_frames stays within",
        trained,
    )
