"""Merging: a dropped token's patches are averaged with those of the token that it merges into."""

from __future__ import annotations

from dataclasses import dataclass, field

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from stts_jax.pruning.pooling_windows import from_windows, to_windows
from stts_jax.pytrees import register_pytree


@register_pytree
@dataclass(frozen=True)
class Merging:
    """The groups of pooled tokens that become one.

    Attributes:
      into: (B, T, P) int32, the kept window of the same frame that each window is part of; its own
        index if it stays. Of a frame that keeps nothing it is a dropped one.
      pooling: side w of a pooling window in patches, which divides the grid.
    """

    into: Int[Array, "B T P"]
    pooling: int = field(metadata={"static": True})

    def average(self, x: Float[Array, "B T N D"]) -> Float[Array, "B T N D"]:
        """Gives each kept window the mean over its group, patch by patch; others stay as they are.

        Every window counts the same, so that merging in any order gives the same mean.
        """
        windows = to_windows(x, self.pooling)
        member = self.into[..., None] == jnp.arange(self.into.shape[-1])
        size = member.sum(-2)[..., None, None]
        total = jnp.einsum(
            "btmp,btmwd->btpwd",
            member.astype(x.dtype),
            windows,
            precision="highest",
            preferred_element_type=jnp.float32,
        )
        mean = (total / jnp.maximum(size, 1)).astype(x.dtype)
        return from_windows(jnp.where(size > 0, mean, windows), self.pooling)


def merging(keep: Bool[Array, "B T P"], targets: Int[Array, "B T P"], pooling: int) -> Merging:
    """Follows each dropped token's target to one that stays.

    Args:
      keep: (B, T, P) bool, windows that stay.
      targets: (B, T, P) int32, the window that each one merges into if it is dropped, which is
        dropped later or is itself; a baseline's `targets`.
      pooling: side w of a pooling window in patches.
    """
    count = keep.shape[-1]
    into = jnp.where(keep, jnp.arange(count, dtype=jnp.int32), targets)
    # Each pass doubles the steps that have been followed, and there are fewer than P.
    for _ in range((count - 1).bit_length()):
        into = jnp.take_along_axis(into, into, axis=-1)
    return Merging(into, pooling)
