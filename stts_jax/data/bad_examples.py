"""Examples that cannot be used: counted, named, and not too many of them."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from stts_jax.data.datasets.base import DatasetError
from stts_jax.data.example_chain import ExampleChainError
from stts_jax.data.formatting import FormatterError
from stts_jax.data.image import ImageError
from stts_jax.data.media import MediaError
from stts_jax.data.message_arrays import MessageError
from stts_jax.data.video import VideoError

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
    """Stands in the stream for an example that could not be read, or fits no row."""

    example: str
    reason: str


@dataclass
class BadExamples:
    """Counts and names examples that could not be used, and stops a run with too many.

    Attributes:
      total: examples in the set.
      max_share: of them that may be bad (`data.max_bad_share`).
      reasons: by the example's name.
    """

    total: int
    max_share: float
    reasons: dict[str, str] = field(default_factory=dict)
    _seen: set[str] = field(default_factory=set, repr=False)

    def see(self, example: str) -> None:
        """Note an example that was read."""
        self._seen.add(example)

    def add(self, bad: Unreadable) -> None:
        """Note a bad example.

        Raises:
          BadExamplesError: if there are too many.
        """
        self._seen.add(bad.example)
        if bad.example in self.reasons:
            return
        self.reasons[bad.example] = bad.reason
        count = len(self.reasons)
        logger.warning("%s is left out (%d so far): %s", bad.example, count, bad.reason)
        judged = max(len(self._seen), min(self.total, JUDGED_AFTER))
        if len(self.reasons) > self.max_share * judged:
            raise BadExamplesError(self.report())

    def report(self) -> str:
        """What is wrong, example by example; empty if nothing is."""
        if not self.reasons:
            return ""
        head = (
            f"{len(self.reasons)} of {len(self._seen)} examples could not be used (up to "
            f"data.max_bad_share={self.max_share:g} are left out); mend or remove them:"
        )
        shown = [f"{example}: {reason}" for example, reason in self.reasons.items()][:10]
        more = len(self.reasons) - len(shown)
        return "\n".join([head, *shown, *([f"and {more} more"] if more else [])])
