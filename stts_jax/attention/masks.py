"""Masks given by a few ids of each token, so that no Lq x Lk array is needed.

`MaskSpec` says which comparisons of a query's ids with a key's ids let the query see the key. Its
rule is written once (`MaskSpec._rule`) and answers three questions: `holds` for pairs of tokens,
and `may_hold` and `always_holds` for pairs of blocks, of which only the smallest and the largest
ids are known. The XLA code and the kernels of all platforms use it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import reduce
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

# Scores of hidden keys. Finite, so that a query that sees no key gets 0 and not NaN.
MASK_VALUE = -1e30
# Where a query sees no key, its largest score is below this.
FULLY_MASKED = MASK_VALUE / 2

MaskKind = Literal["full", "causal"]


def segment_mask(query_segments: jax.Array, key_segments: jax.Array) -> jax.Array:
    """Returns (..., Lq, Lk) bool: the ids are the same and not below 0, which is padding.

    Args:
      query_segments: (..., Lq) int.
      key_segments: (..., Lk) int.
    """
    same = query_segments[..., :, None] == key_segments[..., None, :]
    return same & (query_segments[..., :, None] >= 0)


def segment_starts(segment_ids: jax.Array, segments: int) -> jax.Array:
    """Returns the index at which each segment of a stream starts, and then the padding.

    Args:
      segment_ids: (B, S) int, non-decreasing; ids below 0 are padding at the end.
      segments: T, ids are below this.

    Returns:
      (B, T + 1) int32.
    """
    ids = jnp.where(segment_ids >= 0, segment_ids, segments)
    # Ids are sorted, so a segment starts at the number of smaller ids.
    return (ids[:, None, :] < jnp.arange(segments + 1)[:, None]).sum(-1, dtype=jnp.int32)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TokenMaskIds:
    """The ids of each token that a `MaskSpec` compares, (..., L) int32 each; None if it does not.

    Attributes:
      index: position in the row.
      group: tokens of the same group see each other; ids below 0 mean "no group", and those of
        queries must differ from those of keys.
      frame: the frame that the token belongs to.
      segment: see `MaskSpec`.
    """

    index: jax.Array | None = None
    group: jax.Array | None = None
    frame: jax.Array | None = None
    segment: jax.Array | None = None


# Ids of the tokens that fill up a last block: no query sees such a key.
_FAR = 2**30
_KEY_PADDING = {"index": _FAR, "group": -2, "frame": _FAR, "segment": -_FAR}
_QUERY_PADDING = {"index": -1, "group": -1, "frame": -1, "segment": 0}


@dataclass(frozen=True)
class MaskSpec:
    """Says which comparisons of a query's ids with a key's ids let the query see the key.

    Attributes:
      causal: it sees keys up to its own index;
      mutual: or, too, keys of its own group;
      framed: but of these only those up to its own frame.
      segments: all this only within its own segment if that is not padding (`same`), or only keys
        whose segment id is at least its own (`from`); None for no such condition.
    """

    causal: bool = False
    mutual: bool = False
    framed: bool = False
    segments: Literal["same", "from"] | None = None

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of `TokenMaskIds` that are compared."""
        compared = {
            "index": self.causal,
            "group": self.mutual,
            "frame": self.framed,
            "segment": self.segments is not None,
        }
        return tuple(name for name, is_compared in compared.items() if is_compared)

    def ids(self, arrays: Iterable[jax.Array]) -> TokenMaskIds:
        """Returns ids from one array for each of `fields`, in that order."""
        return TokenMaskIds(**dict(zip(self.fields, arrays, strict=True)))

    def stack(self, ids: TokenMaskIds, axis: int) -> jax.Array:
        """Returns the arrays of `fields`, (..., L) each, stacked along a new axis."""
        return jnp.stack([getattr(ids, name) for name in self.fields], axis=axis)

    def holds(self, queries: TokenMaskIds, keys: TokenMaskIds) -> jax.Array:
        """Returns whether queries see keys, for ids of shapes that broadcast against each other.

        Raises:
          ValueError: for a spec that compares nothing.
        """
        return self._rule(_Bounds(queries, queries), _Bounds(keys, keys))

    def _rule(self, queries: _Bounds, keys: _Bounds) -> jax.Array:
        """Returns whether queries see keys: the rule of all masks, for tokens and for blocks."""
        allowed: jax.Array | None = None
        if self.causal:
            allowed = keys.at_most(queries, "index")
        if self.mutual:
            mutual = keys.equals(queries, "group")
            if not queries.is_exact:
                # Ranges may overlap at ids below 0, which are no group.
                mutual = mutual & queries.at_least_0("group") & keys.at_least_0("group")
            if self.framed:
                mutual = mutual & keys.at_most(queries, "frame")
            allowed = mutual if allowed is None else allowed | mutual
        inside: jax.Array | None = None
        if self.segments == "same":
            inside = keys.equals(queries, "segment") & queries.at_least_0("segment")
        elif self.segments == "from":
            inside = queries.at_most(keys, "segment")
        conditions = [condition for condition in (allowed, inside) if condition is not None]
        if not conditions:
            raise ValueError("a MaskSpec that compares nothing hides nothing; give no mask instead")
        return reduce(operator.and_, conditions)


# Ids of queries and of keys.
_Sides = tuple[TokenMaskIds, TokenMaskIds]


class _Bounds(NamedTuple):
    """Ids as the rule compares them, and the bounds that decide a comparison of blocks.

    A comparison `x <= y` may hold between two blocks if it holds between the smallest x and the
    largest y, and always holds if it does so between the largest x and the smallest y.

    Attributes:
      left: ids on the left of `<=`.
      right: ids on the right of it; for tokens the same.
    """

    left: TokenMaskIds
    right: TokenMaskIds

    @property
    def is_exact(self) -> bool:
        """True for ids of tokens, False for bounds of blocks."""
        return self.left is self.right

    def at_most(self, other: _Bounds, name: str) -> jax.Array:
        """Returns whether these ids are at most the others."""
        at_most: jax.Array = getattr(self.left, name) <= getattr(other.right, name)
        return at_most

    def equals(self, other: _Bounds, name: str) -> jax.Array:
        """Returns whether these ids are the others."""
        if self.is_exact:
            equal: jax.Array = getattr(self.left, name) == getattr(other.left, name)
            return equal
        return self.at_most(other, name) & other.at_most(self, name)

    def at_least_0(self, name: str) -> jax.Array:
        """Returns whether these ids are not below 0."""
        at_least_0: jax.Array = getattr(self.right, name) >= 0
        return at_least_0


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class IndexMask:
    """A mask that is made block by block, where it is needed.

    Attributes:
      queries: ids (..., Lq).
      keys: ids (..., Lk).
      spec: how they are compared.
    """

    queries: TokenMaskIds
    keys: TokenMaskIds
    spec: MaskSpec = field(metadata={"static": True})

    def holds(self) -> jax.Array:
        """Returns the mask itself, (..., Lq, Lk) bool."""
        queries, keys = _outer(self.queries, self.keys)
        return self.spec.holds(queries, keys)

    def may_hold(self, size: int) -> jax.Array:
        """Returns False for blocks in which no query sees any key, from the ranges of their ids.

        It is False for all such blocks if ids come in runs, as those of a row of tokens do.

        Args:
          size: tokens of a block; divides Lq and Lk.

        Returns:
          (..., Lq / size, Lk / size) bool.
        """
        low, high = self._ranges(size)
        queries, keys = (_Bounds(*side) for side in zip(low, high, strict=True))
        return self.spec._rule(queries, keys)

    def always_holds(self, size: int) -> jax.Array:
        """Returns True only for blocks in which every query sees every key.

        Args:
          size: tokens of a block; divides Lq and Lk.

        Returns:
          (..., Lq / size, Lk / size) bool.
        """
        low, high = self._ranges(size)
        queries, keys = (_Bounds(*side) for side in zip(high, low, strict=True))
        return self.spec._rule(queries, keys)

    def padded(self, batch: int, queries: int, keys: int, size: int) -> IndexMask:
        """Returns the mask with ids (batch, L) of whole blocks; no query sees an added key.

        Args:
          batch, queries, keys: B, Lq and Lk.
          size: tokens of a block.
        """

        def padded(ids: TokenMaskIds, length: int, padding: dict[str, int]) -> TokenMaskIds:
            def one(name: str) -> jax.Array:
                x = jnp.broadcast_to(getattr(ids, name), (batch, length)).astype(jnp.int32)
                return jnp.pad(x, ((0, 0), (0, -length % size)), constant_values=padding[name])

            return TokenMaskIds(**{name: one(name) for name in self.spec.fields})

        return IndexMask(
            padded(self.queries, queries, _QUERY_PADDING),
            padded(self.keys, keys, _KEY_PADDING),
            self.spec,
        )

    def _ranges(self, size: int) -> tuple[_Sides, _Sides]:
        """Returns the smallest and the largest (queries, keys) of each block, to be broadcast."""

        def bound(extreme: Callable[..., jax.Array]) -> _Sides:
            def one(x: jax.Array) -> jax.Array:
                return extreme(x.reshape(*x.shape[:-1], -1, size), axis=-1)

            return _outer(*(jax.tree.map(one, side) for side in (self.queries, self.keys)))

        return bound(jnp.min), bound(jnp.max)


def _outer(queries: TokenMaskIds, keys: TokenMaskIds) -> _Sides:
    """Returns ids (..., n, 1) and (..., 1, m)."""
    return (
        jax.tree.map(lambda x: x[..., :, None], queries),
        jax.tree.map(lambda x: x[..., None, :], keys),
    )


# An array is (..., Lq or 1, Lk) bool, True where the query sees the key.
Mask = jax.Array | IndexMask


def as_array(mask: Mask) -> jax.Array:
    """Returns the mask as an array, (..., Lq or 1, Lk) bool."""
    return mask.holds() if isinstance(mask, IndexMask) else mask


def index_mask(length: int, segment_ids: jax.Array | None, mask_kind: MaskKind) -> IndexMask | None:
    """Returns the mask for these arguments of `attention`, or None if they hide nothing."""
    causal = mask_kind == "causal"
    if segment_ids is None and not causal:
        return None
    index = jnp.arange(length, dtype=jnp.int32) if causal else None
    ids = TokenMaskIds(index=index, segment=segment_ids)
    spec = MaskSpec(causal, segments=None if segment_ids is None else "same")
    return IndexMask(ids, ids, spec)
