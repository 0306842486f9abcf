"""Layouts of patches in the ViT, and the dense one, before the drop.

A layout answers four questions: how patches get into it (`gather`), which may see each other
(`attend`), how a block runs on them (`apply_block`), and what a given patch has become (`lookup`).
After the drop it is `stream.StreamLayout`, or `first_fit.FirstFitLayout` as in the reference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
from jaxtyping import Array, Float, Int, Num

from stts_jax.attention import attention
from stts_jax.layers.gather import take_rows
from stts_jax.pytrees import register_pytree

# Runs a block of the ViT: (block, x, layout) -> x.
Step = Callable[[Any, jax.Array, Any], jax.Array]


@runtime_checkable
class Layout(Protocol):
    """Positions of patches; a pytree of arrays."""

    def gather(self, x: Num[Array, "B T N D"]) -> Num[Array, "... D"]:
        """Moves patches into the layout: (B, T, N, D) -> (..., D)."""

    def attend(
        self,
        query: Float[Array, "... H h"],
        key: Float[Array, "... H h"],
        value: Float[Array, "... H h"],
    ) -> Float[Array, "... H h"]:
        """Attends among the patches of each frame: (..., H, d) each, in the layout."""

    def apply_block(
        self, step: Step, block: Any, x: Float[Array, "... D"]
    ) -> Float[Array, "... D"]:
        """Runs a block of the ViT on x, which is in the layout."""

    def lookup(
        self, features: Num[Array, "... D"], patches: Int[Array, "B V G"]
    ) -> Num[Array, "B V G D"]:
        """Returns the features of given patches, zeros for those that are dropped.

        Args:
          features: (..., D), in the layout.
          patches: (B, V, G) int, `frame * N + patch`; out of range gives zeros.

        Returns:
          (B, V, G, D).
        """


@register_pytree
@dataclass(frozen=True)
class DenseLayout:
    """Every patch of every frame, (B, T, N, ...).

    Attributes:
      key_bias: (B, T, N) float, added to the attention scores of each patch as a key, or None.
    """

    key_bias: Float[Array, "B T N"] | None = None

    def gather(self, x: Num[Array, "B T N D"]) -> Num[Array, "B T N D"]:
        """Returns x, (B, T, N, D)."""
        return x

    def attend(
        self,
        query: Float[Array, "B T N H h"],
        key: Float[Array, "B T N H h"],
        value: Float[Array, "B T N H h"],
    ) -> Float[Array, "B T N H h"]:
        """Attends within each frame, with the bias: (B, T, N, H, d) each."""
        return attention(query, key, value, key_bias=self.key_bias)

    def apply_block(self, step: Step, block: Any, x: jax.Array) -> jax.Array:
        """Runs a block: (B, T, N, D) -> (B, T, N, D)."""
        return step(block, x, self)

    def lookup(
        self, features: Num[Array, "B T N D"], patches: Int[Array, "B V G"]
    ) -> Num[Array, "B V G D"]:
        """See `Layout.lookup`; features are (B, T, N, D)."""
        rows, frames, count, width = features.shape
        return take_rows(features.reshape(rows, frames * count, width), patches)
