"""Fetches media of examples from a bucket while those before them are read and decoded."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import PurePath
from typing import Any

from stts_jax.buckets.address import is_bucket
from stts_jax.data.bad_examples import READING_ERRORS
from stts_jax.data.example_chain import example_rng
from stts_jax.data.mixture_order import Draw
from stts_jax.data.sources.source import Source

logger = logging.getLogger(__name__)
# Examples that are fetched before they are read, by each process that reads.
AHEAD = 16
_THREADS = 8


class FetchAhead:
    """Passes on the draws of a process, and starts to fetch the media of those to come."""

    def __init__(
        self, sources: tuple[Source, ...], draws: Sequence[Draw], seed: int, workers: int
    ) -> None:
        """Fetch nothing yet.

        Args:
          sources: the datasets.
          draws: all of them, in order; a worker takes every `workers`-th.
          seed: of what is random in examples.
          workers: processes that read, 0 for this one.
        """
        self._sources, self._draws, self._seed = sources, draws, seed
        self._step = max(workers, 1)
        self._asked = -1

    def __call__(self, position: int, draw: Draw) -> Draw:
        """Returns the draw at a position."""
        last = position + AHEAD * self._step
        # After a jump, as on resuming, nothing has been asked for.
        known = self._asked if position <= self._asked <= last else position
        for later in range(known + self._step, last + 1, self._step):
            self._threads.submit(self._fetch, self._draws[later])
        self._asked = last
        return draw

    def _fetch(self, draw: Draw) -> None:
        from stts_jax.buckets.local_cache import local_cache

        source = self._sources[draw.source]
        rng = example_rng(source.number(draw.index), draw.epoch, self._seed)
        try:
            example = source.get(draw.index, rng)
            for file in (example.video, *example.images):
                if isinstance(file, PurePath) and is_bucket(file) and example.stored is None:
                    local_cache().fetch(file)
        except (*READING_ERRORS, OSError) as error:
            logger.debug("not fetched ahead: %s", error)  # said when it is read

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(_THREADS, thread_name_prefix="fetch")

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_threads"}
