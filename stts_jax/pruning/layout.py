"""Where patches lie in the ViT: `DenseLayout` before the prune, `StreamLayout` after it.

A layout answers four questions: how patches get there (`gather`), which may look at each other
(`attend`), how a block is run on them (`through`), and where a patch is to be found later
(`lookup`). `first_fit` has the reference's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import jax

from stts_jax.layers.attention import attention, stream_attention
from stts_jax.layers.compact import compact, take_rows

# Runs a block of the ViT: block, x and layout to what x becomes.
Step = Callable[[Any, jax.Array, Any], jax.Array]


class Layout(Protocol):
    """Where patches lie; a pytree of arrays."""

    def gather(self, x: jax.Array) -> jax.Array:
        """(B, T, N, D) -> (..., D), laid out."""

    def attend(self, query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        """Attention among the patches of each frame, laid out, (..., H, d)."""

    def through(self, step: Step, block: Any, x: jax.Array) -> jax.Array:
        """Run a block of the ViT on x, which is laid out."""

    def lookup(self, features: jax.Array, patches: jax.Array) -> jax.Array:
        """As `DenseLayout.lookup`."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DenseLayout:
    """Every patch of every frame in its place, (B, T, N, ...).

    Attributes:
      key_bias: (B, T, N) float, added to the attention scores of each patch as a key, or None.
    """

    key_bias: jax.Array | None = None

    def gather(self, x: jax.Array) -> jax.Array:
        """(B, T, N, D), as it is."""
        return x

    def attend(self, query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        """Full attention within each frame: (B, T, N, H, d) each."""
        return attention(query, key, value, key_bias=self.key_bias)

    def through(self, step: Step, block: Any, x: jax.Array) -> jax.Array:
        """Run a block on everything: (B, T, N, D) -> (B, T, N, D)."""
        return step(block, x, self)

    def lookup(self, features: jax.Array, patches: jax.Array) -> jax.Array:
        """The features of given patches.

        Args:
          features: (B, T, N, D).
          patches: (B, V, G) int, `frame * N + patch`; out of range gives zeros.

        Returns:
          (B, V, G, D).
        """
        rows, frames, count, width = features.shape
        return take_rows(features.reshape(rows, frames * count, width), patches)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StreamLayout:
    """The kept patches of a row, one after the other, (B, S, ...).

    Attributes:
      source: (B, S) int32, `frame * N + patch` of each place, T * N at empty places.
      segment_ids: (B, S) int32, frame of each place, -1 at empty places.
      place: (B, T * N) int32, place of each patch, -1 if it is dropped.
      patches: N.
    """

    source: jax.Array
    segment_ids: jax.Array
    place: jax.Array
    patches: int = field(metadata={"static": True})

    def gather(self, x: jax.Array) -> jax.Array:
        """(B, T, N, D) -> (B, S, D), zeros at empty places."""
        rows, frames, count, width = x.shape
        return take_rows(x.reshape(rows, frames * count, width), self.source)

    def attend(self, query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        """Attention among the kept patches of each frame: (B, S, H, d) each."""
        return stream_attention(
            query,
            key,
            value,
            self.segment_ids,
            longest_segment=self.patches,
            segments=self.place.shape[1] // self.patches,
        )

    def through(self, step: Step, block: Any, x: jax.Array) -> jax.Array:
        """Run a block on everything: (B, S, D) -> (B, S, D)."""
        return step(block, x, self)

    def lookup(self, features: jax.Array, patches: jax.Array) -> jax.Array:
        """As `DenseLayout.lookup`, of features (B, S, D); a dropped patch gives zeros."""
        return take_rows(features, take_rows(self.place, patches, fill=-1))


def stream_layout(keep: jax.Array, size: int) -> StreamLayout:
    """Lay the kept patches of each row out as one stream.

    Args:
      keep: (B, T, N) bool.
      size: S, static; the packer has counted that they fit.
    """
    rows, frames, patches = keep.shape
    source, place = compact(keep.reshape(rows, frames * patches), size)
    segment_ids = jax.numpy.where(source < frames * patches, source // patches, -1)
    return StreamLayout(source, segment_ids, place, patches)
