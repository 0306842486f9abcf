"""The order of a mixture of datasets: the example at each position of the stream.

It follows from the seed and the position alone. So a stream may be entered anywhere, and be dealt
out to any number of processes and workers, without a change of its order.
Source: olmo/data/iterable_dataset_mixture.py (docs/reference.md#order), whose order this
reproduces.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from stts_jax.data.shared_orders import SharedOrders

_CHUNK = 1 << 16


class MixtureOrderError(ValueError):
    """A mixture that has no order; the message says which number is wrong."""


class Draw(NamedTuple):
    """An example of the stream.

    Attributes:
      source: number of its dataset.
      index: of the example in the dataset.
      epoch: how often the dataset was used up before.
    """

    source: int
    index: int  # type: ignore[assignment]  # a tuple has a method of this name
    epoch: int


class MixtureOrder:
    """Random access to the draws of a mixture, a source for `grain.MapDataset.source`.

    At each position a dataset is drawn at its rate, and its next example is taken; each dataset is
    shuffled again in each of its epochs. As in the reference, datasets of equal size are shuffled
    alike, and rates are rounded to float32.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        rates: Sequence[float] | None = None,
        *,
        seed: int,
        shuffle: bool = True,
        stratify: bool = False,
    ) -> None:
        """Describe a mixture.

        Args:
          sizes: number of examples of each dataset.
          rates: how often each is drawn; they add up to 1. Not needed for a single dataset.
          seed: of the draws and of the order in each dataset.
          shuffle: otherwise each dataset comes in its own order.
          stratify: instead of at random, draw the dataset that lacks most of its rate so far.

        Raises:
          MixtureOrderError: if a dataset is empty, or rates don't go with the datasets.
        """
        self._sizes = [int(size) for size in sizes]
        self._rates = np.array([1.0] if rates is None else rates, np.float32)
        self._seed, self._shuffle, self._stratify = seed, shuffle, stratify
        self._check()
        self._shuffled = SharedOrders(seed, max(self._sizes) if shuffle else 0)
        self._forget()

    def __len__(self) -> int:
        """Returns the largest length that Python allows: the stream has no end."""
        return sys.maxsize

    def __getitem__(self, position: int) -> Draw:
        number, offset = divmod(int(position), _CHUNK)
        sources, counts = self._chunk(number)
        source, count = int(sources[offset]), int(counts[offset])
        epoch, rank = divmod(count, self._sizes[source])
        index = int(self._order(source, epoch)[rank]) if self._shuffle else rank
        return Draw(source, index, epoch)

    def __getstate__(self) -> dict[str, Any]:
        """Returns all but the tables, to be sent to a worker process."""
        tables = ("_starts", "_number", "_tables", "_orders")
        return {name: value for name, value in vars(self).items() if name not in tables}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    def _check(self) -> None:
        for number, size in enumerate(self._sizes):
            if size < 1:
                raise MixtureOrderError(f"dataset {number} has {size} examples; leave it out")
        if len(self._rates) != len(self._sizes):
            raise MixtureOrderError(
                f"there are {len(self._rates)} rates for {len(self._sizes)} datasets; give one each"
            )
        if (self._rates < 0).any() or abs(self._rates.sum() - 1) > 1e-4:
            raise MixtureOrderError(
                f"the rates are {self._rates.tolist()}; they may not be negative, and must add up "
                "to 1"
            )

    def _forget(self) -> None:
        # Where each chunk so far begins: state of the generator, and draws of each dataset before.
        generator = np.random.RandomState(_legacy_seed(self._seed))
        before = np.zeros(len(self._sizes), np.int64)
        self._starts: list[tuple[Any, np.ndarray]] = [(generator.get_state(), before)]
        self._number, self._tables = -1, (before, before)
        self._orders: dict[int, tuple[int, np.ndarray]] = {}

    def _chunk(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Dataset at each position of a chunk, and how often it was drawn before that."""
        if number == self._number:
            return self._tables
        while len(self._starts) <= number:
            self._draw(len(self._starts) - 1)
        self._number, self._tables = number, self._draw(number)
        return self._tables

    def _draw(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        state, before = self._starts[number]
        generator = np.random.RandomState()
        generator.set_state(state)
        if len(self._sizes) == 1:
            sources = np.zeros(_CHUNK, np.int64)
        elif self._stratify:
            sources = self._most_lacking(before.copy())
        else:
            sources = generator.choice(len(self._sizes), size=_CHUNK, p=self._rates)
        counts = np.empty(_CHUNK, np.int64)
        after = before.copy()
        for source in range(len(self._sizes)):
            positions = np.flatnonzero(sources == source)
            counts[positions] = before[source] + np.arange(len(positions))
            after[source] += len(positions)
        if len(self._starts) == number + 1:
            self._starts.append((generator.get_state(), after))
        return sources, counts

    def _most_lacking(self, counts: np.ndarray) -> np.ndarray:
        """Datasets of a chunk, each the one that is furthest below its rate; the first is 0."""
        sources = np.empty(_CHUNK, np.int64)
        for offset in range(_CHUNK):
            total = counts.sum()
            source = int(np.argmax(self._rates - counts / total)) if total else 0
            counts[source] += 1
            sources[offset] = source
        return sources

    def _order(self, source: int, epoch: int) -> np.ndarray:
        """Examples of a dataset as they come in an epoch."""
        kept = self._orders.get(source)
        if kept is None or kept[0] != epoch:
            order = self._shuffled.order(self._sizes[source], epoch)
            kept = self._orders[source] = (epoch, order)
        return kept[1]


def _legacy_seed(seed: int) -> int | list[int]:
    """Returns a seed for `RandomState`: a number of 32 bits, or several for a larger one."""
    return seed if seed < 2**32 else [seed % 2**32, seed >> 32]
