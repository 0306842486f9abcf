"""Settings of the engine."""

from __future__ import annotations

from dataclasses import dataclass

from stts_jax.config import ConfigError
from stts_jax.size_buckets import TEXT_STEP, text_room


@dataclass(frozen=True)
class EngineSettings:
    """Settings of the engine; memory is taken for all of them at start.

    Attributes:
      slots: requests that are answered at once.
      prefix_tokens: of images or a video after the drop, at most.
      question_tokens: of the text after them, at most.
      max_new_tokens: of an answer, at most.
      cache_bytes: of the prefixes that are kept, all together.
      queue: requests that may wait for a slot.
      steps: tokens of each answer that are chosen between two looks at the queue; more cost fewer
        calls, and let a new request wait longer.
    """

    slots: int = 8
    prefix_tokens: int = 1024
    question_tokens: int = 256
    max_new_tokens: int = 256
    cache_bytes: int = 2**30
    queue: int = 64
    steps: int = 1

    def __post_init__(self) -> None:
        for name in ("slots", "prefix_tokens", "question_tokens", "max_new_tokens", "steps"):
            self._require(name, 1)
        for name in ("cache_bytes", "queue"):
            self._require(name, 0)

    def _require(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if value < least:
            raise ConfigError(f"{name} of the engine is {value}; make it {least} or more")

    @property
    def question_rooms(self) -> tuple[int, ...]:
        """Returns the size buckets of questions, ascending."""
        last = text_room(self.question_tokens)
        return tuple(sorted({text_room(n) for n in range(1, last + 1, TEXT_STEP)} | {last}))

    @property
    def capacity(self) -> int:
        """Returns the cache indices of a slot."""
        return self.prefix_tokens + text_room(self.question_tokens) + self.max_new_tokens
