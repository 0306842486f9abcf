"""The blocks that the TPU kernel of streams cuts scores into: of queries, of keys, of heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stts_jax.layers.attention.stream_windows import CHUNK, TILE

# Of one block of scores: queries are a tile's lanes, keys its sublanes. Blocks of two heights add
# up to nearly every multiple of their difference; those of one would overshoot by up to a block.
QUERIES = CHUNK
KEYS, FEWER_KEYS = CHUNK, 96
LANES = 128


@dataclass(frozen=True)
class Head:
    """Where a head lies among the lanes of all.

    Of 16 heads of 72 lanes, eight lie within one tile and eight across two: products over a head's
    tiles go over 192 lanes on average, of which 72 are its own.

    Attributes:
      number: of the head.
      width: d, lanes of a head.
      lanes: of all heads.
    """

    number: int
    width: int
    lanes: int

    @property
    def tiles(self) -> slice:
        """The lanes of the tiles that it lies in."""
        first, last = self.number * self.width, (self.number + 1) * self.width
        return slice(first // LANES * LANES, min(-(-last // LANES) * LANES, self.lanes))

    @property
    def size(self) -> int:
        """Lanes of these tiles."""
        return self.tiles.stop - self.tiles.start

    def cut(self, across: jax.Array) -> jax.Array:
        """(size, QUERIES), lanes down -> (d, QUERIES), its own."""
        first = self.number * self.width - self.tiles.start
        return across[first : first + self.width]

    def padded(self, across: jax.Array) -> jax.Array:
        """The other way round, with zeros."""
        before = self.number * self.width - self.tiles.start
        return jnp.pad(across, ((before, self.size - self.width - before), (0, 0)))

    def holds(self, rows: int) -> jax.Array:
        """(rows, size) bool: its own lanes."""
        lane = self.tiles.start + jax.lax.broadcasted_iota(jnp.int32, (rows, self.size), 1)
        first = self.number * self.width
        return (lane >= first) & (lane < first + self.width)


def key_blocks(rows: Any) -> tuple[Any, Any]:
    """How many blocks of `KEYS` and of `FEWER_KEYS` hold so many rows with the fewest keys.

    In steps of 32 keys a block has four or three; all numbers but 1, 2 and 5 are sums of these.

    Args:
      rows: whole numbers of any array type, from 0 on.
    """
    step = KEYS - FEWER_KEYS
    steps = -(-rows // step)
    steps += 2 * (steps == 1) + (steps == 2) + (steps == 5)
    fewer = -steps % (KEYS // step)
    return (steps - fewer * (FEWER_KEYS // step)) // (KEYS // step), fewer


def kernel_scores(lengths: np.ndarray) -> int:
    """Scores that are made for segments of these lengths, one behind the other, of each head."""
    starts = np.cumsum(lengths) - lengths
    rows = np.where(lengths > 0, starts % TILE + lengths, 0)
    many, fewer = key_blocks(rows)
    queries, keys = -(-rows // QUERIES) * QUERIES, many * KEYS + fewer * FEWER_KEYS
    return int((queries * keys).sum())
