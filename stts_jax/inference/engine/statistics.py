"""Counts of what the engine did, for whoever watches it."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from dataclasses import dataclass

import numpy as np

from stts_jax.inference.engine.requests import Handle

# Requests and seconds that medians and rates look back.
_REQUESTS, _SECONDS = 1000, 10.0


@dataclass(frozen=True)
class Statistics:
    """The engine at a moment.

    Attributes:
      queued: requests that wait for a slot.
      active, slots: slots that are taken, and all.
      submitted, refused: requests that entered the queue, and that it was too full for.
      ended: finished requests by their reason: stop, length, cancelled, failed.
      tokens: of answers so far.
      tokens_per_s: over the last ten seconds.
      first_token_s: (p50, p95, p99) seconds from entering the queue to the first token, of the last
        thousand requests; None before the first.
      token_s: the same between later tokens of an answer, its mean.
      cache_hits, cache_misses: prefixes that were there, and that were read.
      cache_bytes, cache_entries: that are kept.
      visual_before, visual_after: visual tokens of all media that were asked about.
    """

    queued: int
    active: int
    slots: int
    submitted: int
    refused: int
    ended: dict[str, int]
    tokens: int
    tokens_per_s: float
    first_token_s: tuple[float, float, float] | None
    token_s: tuple[float, float, float] | None
    cache_hits: int
    cache_misses: int
    cache_bytes: int
    cache_entries: int
    visual_before: int
    visual_after: int

    @property
    def kept_share(self) -> float | None:
        """Returns the share of visual tokens that stayed; None before there were any."""
        return self.visual_after / self.visual_before if self.visual_before else None


class Recorder:
    """Counts; any thread may add to it or look."""

    def __init__(self) -> None:
        """Starts at 0."""
        self._lock = threading.Lock()
        self.submitted = self.refused = self.tokens = 0
        self.visual_before = self.visual_after = 0
        self.ended: Counter[str] = Counter()
        self._first: deque[float] = deque(maxlen=_REQUESTS)
        self._later: deque[float] = deque(maxlen=_REQUESTS)
        self._recent: deque[tuple[float, int]] = deque()

    def entered(self) -> None:
        """Counts a request that entered the queue."""
        with self._lock:
            self.submitted += 1

    def turned_away(self) -> None:
        """Counts a request that the queue was too full for."""
        with self._lock:
            self.refused += 1

    def chose(self, count: int) -> None:
        """Counts tokens of a step."""
        now = time.monotonic()
        with self._lock:
            self.tokens += count
            self._recent.append((now, count))
            while self._recent[0][0] < now - _SECONDS:
                self._recent.popleft()

    def finish(self, handle: Handle) -> None:
        """Counts a request that ended."""
        times, seen, count = handle.times, handle.media, handle.count
        with self._lock:
            self.ended[str(handle.finish_reason)] += 1
            if times.first_token is not None and times.finished is not None:
                self._first.append(times.first_token - times.submitted)
                if count > 1:
                    self._later.append((times.finished - times.first_token) / (count - 1))
            if seen is not None:
                self.visual_before += seen.before
                self.visual_after += seen.after

    def tokens_per_s(self) -> float:
        """Returns the tokens of the last ten seconds, by the second."""
        now = time.monotonic()
        with self._lock:
            recent = [(at, count) for at, count in self._recent if at >= now - _SECONDS]
        if not recent:
            return 0.0
        return sum(count for _, count in recent) / max(now - recent[0][0], 1e-3)

    def quantiles(self) -> tuple[tuple[float, float, float] | None, ...]:
        """Returns `first_token_s` and `token_s`, see `Statistics`."""
        with self._lock:
            samples = [list(self._first), list(self._later)]
        return tuple(quantiles(values) for values in samples)


def quantiles(values: list[float]) -> tuple[float, float, float] | None:
    """Returns p50, p95 and p99; None without values."""
    if not values:
        return None
    p50, p95, p99 = np.quantile(values, (0.5, 0.95, 0.99)).tolist()
    return p50, p95, p99
