"""What may look at what, as arrays of bool."""

from __future__ import annotations

import jax

# Scores of forbidden keys. Finite, so that a row with no key at all yields 0 and not NaN.
FORBIDDEN = -1e30
# Where no key was allowed, the largest score is below this.
NOWHERE = FORBIDDEN / 2


def segment_mask(query_segments: jax.Array, key_segments: jax.Array) -> jax.Array:
    """(..., Lq), (..., Lk) -> (..., Lq, Lk) bool: same segment, and no padding (id below 0)."""
    same = query_segments[..., :, None] == key_segments[..., None, :]
    return same & (query_segments[..., :, None] >= 0)
