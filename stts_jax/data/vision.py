"""The visual input of the model before text is added: pixels, and their tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stts_jax.budget import MultimodalType

# The fields of a `Batch` by name, for one example: no row axis, no padding.
ExampleArrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class VisionInput:
    """Patches, and the tokens that they fill.

    Attributes:
      tokens: (n,) int32, the block that is put into the text: marks, times, `<im_patch>`.
      patches: (c, N, patch_dim) uint8, c crops or frames.
      token_pooling: (V, G) int32, for each `<im_patch>` in order the patches it pools, as
        `crop * N + patch`, -1 where there is none.
      kind: what it is; only videos are pruned.
    """

    tokens: np.ndarray
    patches: np.ndarray
    token_pooling: np.ndarray
    kind: MultimodalType
