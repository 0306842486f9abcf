"""Which blocks of a `PlaceMask` hold pairs that may see each other, told by ranges of numbers.

A block that holds none is always told apart from one that holds some where numbers come in runs,
as those of a row of tokens do; a block is never left out by mistake.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from stts_jax.layers.attention.masks import PlaceMask, Places, Rule

# Numbers of places that fill up the last block: nobody sees such a key.
FAR = 2**30
KEY_FILL = {"index": FAR, "group": -2, "frame": FAR, "segment": -FAR}
QUERY_FILL = {"index": -1, "group": -1, "frame": -1, "segment": 0}


@dataclass(frozen=True)
class BlockTables:
    """Of a grid (B, blocks, blocks of the other side), int32 each.

    Attributes:
      needed: 1 where a pair of blocks is to be computed.
      fetched: which block of the other side is to be in memory there; the last one needed, where
        none is, so that nothing is fetched in vain.
    """

    needed: jax.Array
    fetched: jax.Array

    def transposed(self) -> BlockTables:
        """The same seen from the other side."""
        return _tables(jnp.swapaxes(self.needed, 1, 2))


def block_tables(mask: PlaceMask, size: int) -> BlockTables:
    """Tables of a mask of whole blocks of `size`, from `padded_mask`."""
    return _tables(needed_blocks(mask, size).astype(jnp.int32))


def _tables(needed: jax.Array) -> BlockTables:
    numbers = jnp.where(needed == 1, jnp.arange(needed.shape[2], dtype=jnp.int32), 0)
    return BlockTables(needed, jax.lax.cummax(numbers, axis=2))


def needed_blocks(mask: PlaceMask, size: int) -> jax.Array:
    """(B, query blocks, key blocks) bool, False only where no pair may see each other."""
    rule = mask.rule
    queries_low, queries_high, keys_low, keys_high = _both_ranges(mask, size)
    seen: jax.Array | None = None
    if rule.causal:
        seen = keys_low.index <= queries_high.index
    if rule.mutual:
        mutual = (keys_low.group <= queries_high.group) & (queries_low.group <= keys_high.group)
        mutual = mutual & (jnp.minimum(queries_high.group, keys_high.group) >= 0)
        if rule.framed:
            mutual = mutual & (keys_low.frame <= queries_high.frame)
        seen = mutual if seen is None else seen | mutual
    inside: jax.Array | None = None
    if rule.segments == "same":
        inside = keys_low.segment <= queries_high.segment
        inside = inside & (queries_low.segment <= keys_high.segment) & (queries_high.segment >= 0)
    elif rule.segments == "from":
        inside = queries_low.segment <= keys_high.segment
    if seen is None or inside is None:
        return inside if seen is None else seen
    return seen & inside


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class BlockLists:
    """For each block, those of the other side that it needs: first those seen whole, then the rest.

    Attributes:
      order: (B, blocks, blocks of the other side) int32.
      whole: (B, blocks) int32, how many at the front need no mask.
      needed: (B, blocks) int32, how many at the front are needed at all.
    """

    order: jax.Array
    whole: jax.Array
    needed: jax.Array


def block_lists(mask: PlaceMask, size: int, *, of_keys: bool = False) -> BlockLists:
    """Lists of a mask of whole blocks of `size`, from `padded_mask`; of blocks of keys if asked."""
    needed = needed_blocks(mask, size)
    whole = whole_blocks(mask, size) & needed
    if of_keys:
        needed, whole = (jnp.swapaxes(x, 1, 2) for x in (needed, whole))
    rank = jnp.where(whole, 0, jnp.where(needed, 1, 2)).astype(jnp.int32)
    order = jnp.argsort(rank, axis=2, stable=True).astype(jnp.int32)
    return BlockLists(order, whole.sum(-1, dtype=jnp.int32), needed.sum(-1, dtype=jnp.int32))


def whole_blocks(mask: PlaceMask, size: int) -> jax.Array:
    """(B, query blocks, key blocks) bool, True only where every pair may see each other."""
    rule = mask.rule
    queries_low, queries_high, keys_low, keys_high = _both_ranges(mask, size)
    seen: jax.Array | None = None
    if rule.causal:
        seen = keys_high.index <= queries_low.index
    if rule.mutual:
        mutual = (queries_low.group == queries_high.group) & (keys_low.group == keys_high.group)
        mutual = mutual & (keys_low.group == queries_low.group)
        if rule.framed:
            mutual = mutual & (keys_high.frame <= queries_low.frame)
        seen = mutual if seen is None else seen | mutual
    inside: jax.Array | None = None
    if rule.segments == "same":
        inside = (queries_low.segment == queries_high.segment) & (queries_low.segment >= 0)
        inside = inside & (keys_low.segment == keys_high.segment)
        inside = inside & (keys_low.segment == queries_low.segment)
    elif rule.segments == "from":
        inside = queries_high.segment <= keys_low.segment
    if seen is None or inside is None:
        return inside if seen is None else seen
    return seen & inside


def padded_mask(mask: PlaceMask, rows: int, queries: int, keys: int, size: int) -> PlaceMask:
    """With numbers (B, L) of whole blocks, those of added places such that nobody sees them."""

    def padded(places: Places, length: int, fill: dict[str, int]) -> Places:
        def one(name: str) -> jax.Array:
            x = jnp.broadcast_to(getattr(places, name), (rows, length)).astype(jnp.int32)
            return jnp.pad(x, ((0, 0), (0, -length % size)), constant_values=fill[name])

        return Places(**{name: one(name) for name in mask.rule.numbers})

    return PlaceMask(
        padded(mask.queries, queries, QUERY_FILL), padded(mask.keys, keys, KEY_FILL), mask.rule
    )


def across(places: Places, rule: Rule) -> jax.Array:
    """(B, numbers, L) int32."""
    return jnp.stack([getattr(places, name) for name in rule.numbers], axis=1)


def down(places: Places, rule: Rule) -> jax.Array:
    """(B, L, numbers) int32."""
    return jnp.stack([getattr(places, name) for name in rule.numbers], axis=2)


def _both_ranges(mask: PlaceMask, size: int) -> tuple[Places, Places, Places, Places]:
    """Least and greatest numbers of blocks of queries (B, n, 1), and of keys (B, 1, m)."""
    queries = (jax.tree.map(lambda x: x[:, :, None], r) for r in _ranges(mask.queries, size))
    keys = (jax.tree.map(lambda x: x[:, None, :], r) for r in _ranges(mask.keys, size))
    return *queries, *keys


def _ranges(places: Places, size: int) -> tuple[Places, Places]:
    """Least and greatest numbers of each block, (B, blocks)."""
    blocks = jax.tree.map(lambda x: x.reshape(x.shape[0], -1, size), places)
    return jax.tree.map(lambda x: x.min(-1), blocks), jax.tree.map(lambda x: x.max(-1), blocks)
