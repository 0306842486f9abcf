"""Prefixes of videos and images by their content, the least recently used leave first."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from stts_jax.inference.engine.requests import MediaRow
from stts_jax.inference.prefix import Prefix


@dataclass(frozen=True)
class CachedMedia:
    """Media that were read.

    Attributes:
      prefix: keys and values, on the devices.
      before, after, keep, scores: see `requests.SeenMedia`.
    """

    prefix: Prefix
    before: int
    after: int
    keep: np.ndarray
    scores: np.ndarray

    @property
    def nbytes(self) -> int:
        """Returns the bytes on the devices."""
        return self.prefix.nbytes


class PrefixCache:
    """Prefixes by key; together they have at most so many bytes. Not for several threads at once.

    Attributes:
      limit: bytes.
      nbytes: of all that are there.
      hits, misses: of `get` so far.
    """

    def __init__(self, limit: int) -> None:
        """Starts empty."""
        self.limit = limit
        self.nbytes = self.hits = self.misses = 0
        self._entries: OrderedDict[str, CachedMedia] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def get(self, key: str) -> CachedMedia | None:
        """Returns what is there under a key, which is now the most recently used; None if none."""
        found = self._entries.get(key)
        if found is None:
            self.misses += 1
            return None
        self.hits += 1
        self._entries.move_to_end(key)
        return found

    def make_room(self, nbytes: int) -> None:
        """Lets entries go until so many bytes more are within the limit, or none is left."""
        while self._entries and self.nbytes + nbytes > self.limit:
            _, gone = self._entries.popitem(last=False)
            self.nbytes -= gone.nbytes

    def put(self, key: str, media: CachedMedia) -> None:
        """Adds an entry under a new key, unless it is larger than all may be together."""
        self.make_room(media.nbytes)
        if self.nbytes + media.nbytes <= self.limit:
            self._entries[key] = media
            self.nbytes += media.nbytes


def content_key(media: MediaRow, seed: int) -> str:
    """Returns the key of media; `seed` counts where tokens are dropped at random."""
    is_random = media.model.prune.method == "random"
    return f"{media.digest} {seed}" if is_random else media.digest
