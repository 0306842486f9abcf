"""Who may look at whom, from a few whole numbers a place, so that nobody needs an Lq x Lk array."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import jax
import jax.numpy as jnp

# Scores of forbidden keys. Finite, so that a row with no key at all yields 0 and not NaN.
FORBIDDEN = -1e30
# Where no key was allowed, the largest score is below this.
NOWHERE = FORBIDDEN / 2


def segment_mask(query_segments: jax.Array, key_segments: jax.Array) -> jax.Array:
    """(..., Lq), (..., Lk) -> (..., Lq, Lk) bool: same segment, and no padding (id below 0)."""
    same = query_segments[..., :, None] == key_segments[..., None, :]
    return same & (query_segments[..., :, None] >= 0)


@dataclass(frozen=True)
class Rule:
    """Which comparisons of a query's numbers with a key's let it look.

    Attributes:
      causal: it may look at places up to its own;
      mutual: or, too, at those of its own group;
      framed: at these only up to its own frame.
      segments: all this only where the key's segment is its own and no padding (`same`), or has an
        id no lower than its own (`from`); None for anywhere.
    """

    causal: bool = False
    mutual: bool = False
    framed: bool = False
    segments: Literal["same", "from"] | None = None

    @property
    def numbers(self) -> tuple[str, ...]:
        """The fields of `Places` that it compares."""
        wanted = {
            "index": self.causal,
            "group": self.mutual,
            "frame": self.framed,
            "segment": self.segments is not None,
        }
        return tuple(name for name, is_wanted in wanted.items() if is_wanted)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Places:
    """What a `Rule` compares, (..., L) int32 each, or None where it doesn't look.

    Attributes:
      index: order in the row.
      group: places of the same id see each other; a query's and a key's ids for "none" differ.
      frame: which frame the place belongs to.
      segment: see `Rule`.
    """

    index: jax.Array | None = None
    group: jax.Array | None = None
    frame: jax.Array | None = None
    segment: jax.Array | None = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PlaceMask:
    """A mask that is made where it is needed, block by block."""

    queries: Places
    keys: Places
    rule: Rule = field(metadata={"static": True})

    def array(self) -> jax.Array:
        """The whole of it, (..., Lq, Lk) bool."""
        down = jax.tree.map(lambda x: x[..., :, None], self.queries)
        across = jax.tree.map(lambda x: x[..., None, :], self.keys)
        return visible(self.rule, down, across)


# An array is (..., Lq or 1, Lk) bool, True where the query may look.
Mask = jax.Array | PlaceMask


def visible(rule: Rule, queries: Places, keys: Places) -> jax.Array:
    """Where queries may look, for numbers of any shapes that broadcast.

    Raises:
      ValueError: for a rule that forbids nothing.
    """
    allowed: jax.Array | None = None
    if rule.causal:
        allowed = keys.index <= queries.index
    if rule.mutual:
        mutual = keys.group == queries.group
        if rule.framed:
            mutual = mutual & (keys.frame <= queries.frame)
        allowed = mutual if allowed is None else allowed | mutual
    inside: jax.Array | None = None
    if rule.segments == "same":
        inside = (keys.segment == queries.segment) & (queries.segment >= 0)
    elif rule.segments == "from":
        inside = queries.segment <= keys.segment
    if allowed is None and inside is None:
        raise ValueError("a mask's rule forbids nothing; give no mask instead")
    if allowed is None or inside is None:
        return inside if allowed is None else allowed
    return allowed & inside


def places_mask(
    length: int, segment_ids: jax.Array | None, mask_kind: Literal["full", "causal"]
) -> PlaceMask | None:
    """The mask of `attention`'s arguments of these names, or None if they forbid nothing."""
    causal = mask_kind == "causal"
    if segment_ids is None and not causal:
        return None
    index = jnp.arange(length, dtype=jnp.int32) if causal else None
    places = Places(index=index, segment=segment_ids)
    return PlaceMask(places, places, Rule(causal, segments=None if segment_ids is None else "same"))
