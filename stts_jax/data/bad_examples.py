"""Counts and names examples that cannot be used, and limits their number."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from stts_jax.data.datasets.base import DatasetError
from stts_jax.data.example_chain import ExampleChainError
from stts_jax.data.images.image import ImageError
from stts_jax.data.media import MediaError
from stts_jax.data.mixture_order import Draw
from stts_jax.data.text.formatting import FormatterError
from stts_jax.data.text.message_arrays import MessageError
from stts_jax.data.video.reading import VideoError

logger = logging.getLogger(__name__)

# What is wrong with one example and nothing else.
READING_ERRORS = (
    *(VideoError, ImageError, MediaError, DatasetError),
    *(FormatterError, MessageError, ExampleChainError),
)
# The share of bad examples is judged against at least this many, so that one early bad example
# doesn't stop a run.
JUDGED_AFTER = 100


class BadExamplesError(ValueError):
    """Too many examples could not be used; the message is the report."""


@dataclass(frozen=True)
class Unreadable:
    """Stands in the stream for an example that could not be read, or fits no row.

    Attributes:
      example: what it is called.
      reason: why it can't be used.
      share: of the example that is bad, below 1 for a line of several.
      draw: that it was read for; of a whole example.
    """

    example: str
    reason: str
    share: float = 1.0
    draw: Draw | None = None


class _Seen:
    """Counts examples that were read, each once: by a bit of its dataset's, or by its name."""

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._bits: dict[int, np.ndarray] = {}
        self._count = 0

    def add(self, name: str, draw: Draw | None, sizes: Sequence[int]) -> None:
        if draw is None or draw.source >= len(sizes):
            self._names.add(name)
            return
        bits = self._bits.get(draw.source)
        if bits is None:
            bits = self._bits[draw.source] = np.zeros(-(-sizes[draw.source] // 8), np.uint8)
        byte, mask = draw.index // 8, np.uint8(1 << draw.index % 8)
        self._count += not bits[byte] & mask
        bits[byte] |= mask

    def __len__(self) -> int:
        return len(self._names) + self._count


@dataclass
class BadExamples:
    """Counts and names examples that could not be used, and stops a run with too many.

    A run also ends where not one example of a dataset is of use, whatever share may be bad: it
    would read on for ever, or learn from the others alone.

    Attributes:
      total: examples in the set.
      max_share: of them that may be bad (`data.max_bad_share`).
      sizes: examples of each dataset of the set.
      reasons: by the example's name.
    """

    total: int
    max_share: float
    sizes: tuple[int, ...] = ()
    reasons: dict[str, str] = field(default_factory=dict)
    _seen: _Seen = field(default_factory=lambda: _Seen(), repr=False)
    _share: float = 0.0
    _useless: dict[int, set[int]] = field(default_factory=dict, repr=False)

    def see(self, example: str, draw: Draw | None = None) -> None:
        """Note an example that was read, and the draw that it was read for."""
        self._seen.add(example, draw, self.sizes)
        if draw is not None:
            self._useless.pop(draw.source, None)

    def add(self, bad: Unreadable) -> None:
        """Note a bad example.

        Raises:
          BadExamplesError: if there are too many.
        """
        if bad.share == 1:
            self._seen.add(bad.example, bad.draw, self.sizes)
        if bad.example not in self.reasons:
            self.reasons[bad.example] = bad.reason
            self._share += bad.share
            count = len(self.reasons)
            logger.warning("skipping %s: %s (%d skipped so far)", bad.example, bad.reason, count)
        judged = max(len(self._seen), min(self.total, JUDGED_AFTER))
        if self._share > self.max_share * judged:
            raise BadExamplesError(self.report())
        self._require_any_of_use(bad.draw)

    def _require_any_of_use(self, draw: Draw | None) -> None:
        """Ends the run where all examples of a dataset were bad since its last good one."""
        if draw is None or not self.sizes:
            return
        useless, size = self._useless.setdefault(draw.source, set()), self.sizes[draw.source]
        useless.add(draw.index)
        if len(useless) == size:
            dataset = "" if len(self.sizes) == 1 else " of one of the datasets"
            head = f"not one of the {size} examples{dataset} can be used; correct or remove them:"
            raise BadExamplesError(self.report(head))

    def report(self, head: str = "") -> str:
        """Says how many could not be used and why; empty if all could."""
        if not self.reasons:
            return ""
        head = head or (
            f"{len(self.reasons)} of {len(self._seen)} examples could not be used (up to "
            f"data.max_bad_share={self.max_share:g} are skipped); correct or remove them:"
        )
        shown = [f"{example}: {reason}" for example, reason in self.reasons.items()][:10]
        more = len(self.reasons) - len(shown)
        return "\n".join([head, *shown, *([f"and {more} more"] if more else [])])
