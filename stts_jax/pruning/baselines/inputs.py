"""The inputs of a baseline."""

from __future__ import annotations

from dataclasses import dataclass

import jax
from jaxtyping import Array, Float

from stts_jax.pruning.frames import FrameTable


@dataclass(frozen=True)
class BaselineInputs:
    """The inputs that a baseline may score tokens by.

    Attributes:
      x: (B, T, N, D) inputs of block 0.
      frames: the rows' frames.
      pooling: side w of a pooling window in patches.
      threshold: mean similarity under which a frame is protected.
      key: random key.
      hidden: (B, T, N, width) the patches where tokens are dropped: the outputs of block l, of
        method `evs` the features after the ViT.
    """

    x: Float[Array, "B T N D"]
    frames: FrameTable
    pooling: int
    threshold: float | Float[Array, ""]
    key: jax.Array
    hidden: Float[Array, "B T N width"]
