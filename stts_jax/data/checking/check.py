"""Finds the examples of a dataset that can be used: annotations, records, and their files."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from stts_jax.buckets.address import path_of
from stts_jax.data.checking.files import FileState, MediaFile, check_files
from stts_jax.data.checking.rows import RowCheck
from stts_jax.data.datasets import academic, benchmarks  # noqa: F401  (enter the datasets by name)
from stts_jax.data.datasets.base import Dataset, DatasetError, SourceExample, dataset_class
from stts_jax.data.sources.line_file import LineFile
from stts_jax.data.sources.own_data import OwnData, OwnDataError
from stts_jax.data.sources.own_records import own_lines
from stts_jax.data.sources.usable import Selection

SECONDS_PER_HOUR = 3600


@dataclass(frozen=True)
class Target:
    """A dataset to check.

    Attributes:
      selection: its name and split.
      read: reads its annotations.
      home: where to get it.
    """

    selection: Selection
    read: Callable[[], Dataset]
    home: str = ""


@dataclass(frozen=True)
class CheckOptions:
    """Options of a check.

    Attributes:
      decode: every frame; otherwise files are only probed.
      limit: at most that many examples of each dataset, evenly spread over it.
      workers: processes that look at files; 0 for none but this one.
      progress: show a bar.
      rows: if given, examples that fit no row are looked for too.
    """

    decode: bool = False
    limit: int | None = None
    workers: int = 0
    progress: bool = False
    rows: RowCheck | None = None


@dataclass
class DatasetState:
    """The result of a check.

    Attributes:
      selection: name and split.
      home: where to get it.
      examples: in the annotations, None if they cannot be read.
      checked: how many of them were looked at.
      usable: indices of those whose files can all be read, and that fit a row.
      hours: of the videos that can be read.
      unreadable: why the annotations cannot be read.
      missing: files that are not there.
      damaged: why files cannot be read.
      wrong: why records make no example, a clip of no frames, or an example that fits no row.
    """

    selection: Selection
    home: str
    examples: int | None = None
    checked: int = 0
    usable: list[int] = field(default_factory=list)
    hours: float = 0.0
    unreadable: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether nothing is missing, damaged or wrong."""
        return not (self.unreadable or self.missing or self.damaged or self.wrong)

    def to_plain(self) -> dict[str, Any]:
        """Returns a JSON object, with the number of usable examples instead of their indices."""
        plain = {**self.selection._asdict(), **dataclasses.asdict(self)}
        del plain["selection"]
        return {**plain, "usable": len(self.usable), "complete": self.complete}


# ------------------------------------------------------------------------------ what to check


def registered(name: str, root: Path, default_split: str | None = None) -> Target:
    """A dataset of the registry, by "name" or "name:split".

    Args:
      name: of the dataset; the split is by default `default_split` or its usual one.
      root: folder that holds the folders of all datasets.
      default_split: for names without one.

    Raises:
      DatasetError: if there is no such dataset or split.
    """
    dataset, _, split = name.partition(":")
    made = dataset_class(dataset)
    chosen = split or default_split or made.splits[0]
    if chosen not in made.splits:
        raise DatasetError(
            f"dataset '{dataset}' has no split '{chosen}'; use one of {', '.join(made.splits)}"
        )
    return Target(Selection(dataset, chosen), lambda: made(root, chosen), made.home)


def own_file(path: Path, per_example: int | None = None) -> Target:
    """A file of users' own data, with at most `per_example` lines in an example (all if None)."""

    def read() -> Dataset:
        try:
            return OwnData(path, per_example)
        except OwnDataError as error:  # at the first wrong line
            file = LineFile.at(path)
            lines = own_lines(file.path, file.shown, file.longest)
            wrong = [str(line) for line in lines if isinstance(line, OwnDataError)]
            raise OwnDataError("\n".join(wrong) or str(error)) from error

    return Target(Selection(str(path), None), read)


# -------------------------------------------------------------------------------------- checking


@dataclass(frozen=True)
class _Needed:
    """An example's files, of which a video is the first, and its clip."""

    index: int
    name: str
    files: tuple[MediaFile, ...]
    clip: tuple[float, float] | None


def check(targets: Sequence[Target], options: CheckOptions) -> list[DatasetState]:
    """Check datasets: first all annotations, then all files, each of them once."""
    states = [DatasetState(target.selection, target.home) for target in targets]
    datasets = [_read(target, state) for target, state in zip(targets, states, strict=True)]
    needed = [
        _needed_files(dataset, options, state) if dataset is not None else []
        for dataset, state in zip(datasets, states, strict=True)
    ]
    files = dict.fromkeys(file for part in needed for example in part for file in example.files)
    checked = check_files(files, decode=options.decode, workers=min(options.workers, len(files)))
    known = dict(_bar(checked, "files", "file", options, len(files)))
    for state, part in zip(states, needed, strict=True):
        _account(state, part, {file: known[file] for example in part for file in example.files})
    if options.rows is not None:
        for state, dataset in zip(states, datasets, strict=True):
            if dataset is not None:
                _account_rows(state, dataset, options.rows, options)
    return states


def _read(target: Target, state: DatasetState) -> Dataset | None:
    """A dataset; None if its annotations cannot be read."""
    try:
        dataset = target.read()
    except DatasetError as error:
        state.unreadable = str(error).split("\n")
        return None
    except Exception as error:  # annotations of an unforeseen form
        state.unreadable = [f"the annotations are damaged: {type(error).__name__}: {error}"]
        return None
    state.examples = len(dataset)
    return dataset


def _needed_files(dataset: Dataset, options: CheckOptions, state: DatasetState) -> list[_Needed]:
    """Returns the files that the examples need; counts records that make no example."""
    needed = []
    indices = _spread(len(dataset), options.limit)
    for index in _bar(indices, state.selection.dataset, "record", options):
        state.checked += 1
        try:
            example = dataset.get(index, _example_rng(index))
        except Exception as error:  # a damaged record can raise anything
            state.wrong.append(f"{_called(dataset, index)}: {_reason(error)}")
            continue
        name = _called(dataset, index)
        if example.video is not None and example.images:
            state.wrong.append(f"{name}: it has both a video and images; leave one out")
        else:
            needed.append(_Needed(index, name, tuple(_files(example)), example.clip))
    return needed


def _account(
    state: DatasetState, needed: Sequence[_Needed], files: dict[MediaFile, FileState]
) -> None:
    state.hours = sum(file.seconds for file in files.values()) / SECONDS_PER_HOUR
    state.missing = [str(file.path) for file, s in files.items() if s.problem == "missing"]
    state.damaged = [s.reason for s in files.values() if s.problem == "damaged"]
    for example in needed:
        if any(files[file].problem for file in example.files):
            continue
        if reason := _wrong_clip(example, files):
            state.wrong.append(f"{example.name}: {reason}")
        else:
            state.usable.append(example.index)


def _account_rows(
    state: DatasetState, dataset: Dataset, rows: RowCheck, options: CheckOptions
) -> None:
    """Removes from the usable examples those that fit no row, even without some lines."""
    found = list(rows.problems(dataset, _bar(state.usable, "rows", "example", options)))
    for index, bad in found:
        name = bad.example if bad.share < 1 else _called(dataset, index)
        state.wrong.append(f"{name}: {bad.reason}")
    useless = {index for index, bad in found if bad.share == 1}
    state.usable = [index for index in state.usable if index not in useless]


def _wrong_clip(example: _Needed, files: dict[MediaFile, FileState]) -> str:
    """Why the clip has no frames; empty if it has."""
    if example.clip is None:
        return ""
    (start, end), video = example.clip, example.files[0]
    if not 0 <= start < end:
        return f"its clip goes from {start:g} to {end:g} s"
    if start >= files[video].seconds:
        return (
            f"its clip begins at {start:g} s, but '{video.path}' ends at {files[video].seconds:g} s"
        )
    return ""


def _files(example: SourceExample) -> Iterator[MediaFile]:
    if example.video is not None:
        yield MediaFile(path_of(example.video), "video")
    for image in example.images:
        yield MediaFile(image, "image")


def _called(dataset: Dataset, index: int) -> str:
    """Returns the name of an example: file and line of users' data, else dataset and number."""
    return dataset.called(index) if isinstance(dataset, OwnData) else f"example {index}"


def _spread(count: int, limit: int | None) -> Sequence[int]:
    if limit is None or limit >= count:
        return range(count)
    return [number * count // limit for number in range(limit)]


def _example_rng(index: int) -> np.random.RandomState:
    """The generator that the example has in the first epoch of training."""
    return np.random.RandomState(np.random.MT19937(np.random.SeedSequence(index, spawn_key=(0,))))


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, DatasetError) else f"{type(error).__name__}: {error}"


def _bar(
    items: Any, description: str, unit: str, options: CheckOptions, total: int | None = None
) -> Any:
    disable = None if options.progress else True  # None: shown on terminals only
    return tqdm(items, description, total, unit=unit, leave=False, disable=disable)
