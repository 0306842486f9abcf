"""Examples of shards, as datasets of a run."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader
from etils import epath

from stts_jax.config import Config
from stts_jax.config.data import SHARDS
from stts_jax.data.datasets.base import Dataset, DatasetError, SourceExample
from stts_jax.data.shards.example_record import StoredExample, from_record
from stts_jax.data.shards.manifest import (
    CLIPS,
    Manifest,
    ShardInfo,
    SourceEntry,
    read_complete,
    read_manifest,
)
from stts_jax.data.shards.record import RecordError
from stts_jax.data.shards.whole_files import folder_at, is_local
from stts_jax.data.sources.source import Source

# Records are read one at a time, at random.
READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
MOST_OPEN = 64


def sources_of_shards(config: Config) -> tuple[Source, ...]:
    """Returns the datasets of the shards that `data.train` names.

    Raises:
      DatasetError: if they are not all there, or were made with other settings.
    """
    folder = folder_at(config.data.train.removeprefix(SHARDS))
    manifest = read_manifest(folder)
    manifest.require_settings(config, str(folder))
    _require_all(folder, manifest, read_complete(folder, manifest))
    files = ShardFiles(folder, manifest)
    sources, first = [], 0
    for entry in manifest.sources:
        dataset = ShardedDataset(files, entry, first)
        first += entry.examples
        sources.append(
            Source(
                dataset,
                entry.rate,
                entry.indices,
                entry.message_weight,
                entry.p_high_res,
                plain=entry.own and config.data.wording == "plain",
            )
        )
    return tuple(sources)


def _require_all(folder: epath.Path, manifest: Manifest, infos: Sequence[ShardInfo]) -> None:
    """Refuse a set of which a file is missing or of another size."""
    for shard, info in enumerate(infos):
        path = folder / manifest.shard_name(shard)
        size = path.stat().length if path.exists() else None
        if size != info.bytes:
            found = "does not exist" if size is None else f"has {size:,} bytes"
            raise DatasetError(
                f"'{path}' {found}, and was written with {info.bytes:,}; copy the folder again, or "
                "run the command that made it"
            )


class ShardFiles:
    """Random access to the records of a set of shards; each process opens the files itself."""

    def __init__(self, folder: epath.Path, manifest: Manifest) -> None:
        """Open nothing yet."""
        # Worker processes are sent all of this, so the numbers of examples are left out.
        entries = tuple(dataclasses.replace(entry, numbers=None) for entry in manifest.sources)
        self.folder, self.manifest = folder, dataclasses.replace(manifest, sources=entries)
        self._open: OrderedDict[int, Any] = OrderedDict()

    def example(self, number: int) -> StoredExample:
        """The example of a number, over all datasets.

        Raises:
          DatasetError: if its shard is damaged.
        """
        shard, position = divmod(number, self.manifest.per_shard)
        path = self.folder / self.manifest.shard_name(shard)
        try:
            (record,) = self._reader(shard).read([position])
            return from_record(record, self.manifest.coding)
        except (RecordError, RuntimeError, ValueError, IndexError, OSError) as error:
            raise DatasetError(
                f"record {position} of '{path}' can't be read: {str(error)[:200]}; copy the file "
                "again, or delete it and run the command that made it"
            ) from error

    def _reader(self, shard: int) -> Any:
        reader = self._open.pop(shard, None)
        if reader is None:
            path = self.folder / self.manifest.shard_name(shard)
            reader = _opened(path)
        self._open[shard] = reader
        while len(self._open) > MOST_OPEN:
            self._open.popitem(last=False)[1].close()
        return reader

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_open": OrderedDict()}


def _opened(path: Any) -> Any:
    """Opens a shard, of one in a bucket its copy on this machine."""
    if is_local(path):
        return ArrayRecordReader(str(path), READER_OPTIONS)
    from stts_jax.buckets.local_cache import local_cache

    with local_cache().opened(path) as copy:
        return ArrayRecordReader(str(copy), READER_OPTIONS)


class ShardedDataset(Dataset):
    """A dataset whose examples are in shards, by the numbers that they have in the dataset."""

    splits = ()

    def __init__(self, files: ShardFiles, entry: SourceEntry, first: int) -> None:
        """Take a part of a set.

        Args:
          files: the set.
          entry: what its manifest says of the dataset.
          first: number of the dataset's first example in the set.
        """
        self._files, self._first = files, first
        self._entry = dataclasses.replace(entry, numbers=None)
        self._numbers = self._order = None
        if (numbers := entry.indices) is not None:
            self._order = np.argsort(numbers, kind="stable")
            self._numbers = numbers[self._order]
        self._last: tuple[int, StoredExample] | None = None

    def read(self) -> Sequence[Any]:
        """Nothing: records are read when they are asked for."""
        return ()

    def __len__(self) -> int:
        return self._entry.examples

    def called(self, index: int) -> str:
        """The name that the example had where it was stored."""
        try:
            return self._stored(index).name
        except DatasetError:  # said when it is read
            return f"example {index} of '{self.label()}'"

    def label(self) -> str:
        """The name that the dataset had where it was stored."""
        return self._entry.label

    def fingerprint(self) -> str:
        """That of the data themselves; frames that lost bits are others."""
        media = self._files.manifest.media
        same = media == CLIPS or self._files.manifest.coding.quality is None
        return self._entry.fingerprint if same else f"{self._entry.fingerprint}:{media}"

    def example(self, record: Any, rng: np.random.RandomState) -> SourceExample:
        """The example of a record, with its annotations drawn.

        Raises:
          DatasetError: if it could not be read when it was to be stored.
        """
        try:
            found = record.drawn(rng)
        except (ValueError, TypeError, IndexError, AttributeError, KeyError) as error:
            raise DatasetError(
                f"'{record.name}' in a shard has annotations of another form ({error}); make the "
                "shards again"
            ) from error
        if found is None:
            raise DatasetError(record.error)
        return found

    def get(self, index: int, rng: np.random.RandomState) -> SourceExample:
        """Example `index` of the dataset; its annotations are drawn from `rng`."""
        return self.example(self._stored(index), rng)

    def _stored(self, index: int) -> StoredExample:
        """Reads a record, once for its name and its content."""
        if self._last is None or self._last[0] != index:
            position = index
            if self._numbers is not None and self._order is not None:
                position = int(self._order[np.searchsorted(self._numbers, index)])
            found = self._files.example(self._first + position)
            if found.number != index:
                raise DatasetError(
                    f"the record of example {index} of '{self.label()}' is that of example "
                    f"{found.number}; make the shards again"
                )
            self._last = (index, found)
        return self._last[1]

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_last": None}
