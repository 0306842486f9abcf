"""The interface of a dataset, and the registry that finds one by name.

A dataset reads its published annotation files once, and makes an example of each record on
request. Whatever is drawn at random is drawn then, from the generator that is handed in.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np

from stts_jax.buckets.address import path_of
from stts_jax.data.embedded import EmbeddedPicture
from stts_jax.data.stored_media import StoredVideo

# From the start and to the end of a line of subtitles in seconds, to its text.
Subtitles = Mapping[tuple[float, float], str]
Annotation = Mapping[str, Any]


class DatasetError(ValueError):
    """A dataset that cannot be read; the message names the file and the remedy."""


@dataclass(frozen=True)
class SourceExample:
    """A video, some images or neither, and what is asked about them together.

    Attributes:
      annotations: one dict for each independent conversation, in the fields that
        `stts_jax.data.text.formatting` knows: `style` and, by style, `question`, `answer`,
        `answers`, `options`, `answer_idx`, `text`, `points`, ...
      video: file.
      clip: first and last second of the video that are shown; all of it if None.
      images: files, or their content, in order.
      subtitle: shown with the video; times of a mapping are relative to the clip. The path of a
        file stands for its lines until the dataset hands the example over.
      metadata: kept with predictions, and what metrics need: `example_id`, `answer`, `options`...
      names: what messages call the annotations, file and line of users' data; none of others.
      literal: its texts are users', in which special tokens are text like any other; in published
        data they are tokens, as in the reference.
      stored: the content of the video, where it comes with the example; `video` is its name then.
    """

    annotations: tuple[Annotation, ...]
    video: Path | None = None
    clip: tuple[float, float] | None = None
    images: tuple[Path | EmbeddedPicture, ...] = ()
    subtitle: str | Path | Subtitles | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    literal: bool = False
    stored: StoredVideo | None = None


class Draft(Protocol):
    """An annotation, of which parts may still be random."""

    def draw(self, rng: np.random.RandomState) -> Annotation:
        """The annotation."""


class Dataset(ABC):
    """A dataset below a root folder.

    Attributes:
      name: in the registry, set by `register`.
      splits: that it has, the usual one for its use first.
      home: where to get it, for the user who lacks it.
    """

    name: ClassVar[str] = ""
    splits: ClassVar[tuple[str, ...]] = ("train",)
    home: ClassVar[str] = ""

    def __init__(self, root: Path, split: str | None = None) -> None:
        """Read the annotations.

        Args:
          root: holds the folders of all datasets (the reference's `video_datasets`).
          split: one of `splits`, by default the first.

        Raises:
          DatasetError: if a file is missing or damaged, or there is no such split.
        """
        self.root = path_of(root)
        self.split = self.splits[0] if split is None else split
        if self.split not in self.splits:
            raise DatasetError(
                f"dataset '{self.name}' has no split '{self.split}'; use one of "
                f"{', '.join(self.splits)}"
            )
        self.records: Sequence[Any] = self.read()

    @abstractmethod
    def read(self) -> Sequence[Any]:
        """The records, one for each example."""

    @abstractmethod
    def example(self, record: Any, rng: np.random.RandomState) -> SourceExample:
        """The example of a record."""

    def __len__(self) -> int:
        return len(self.records)

    def called(self, index: int) -> str:
        """The name of example `index` in messages."""
        return f"example {index} of '{self.name}'"

    def label(self) -> str:
        """The name of the dataset in messages."""
        return self.name

    def fingerprint(self) -> str:
        """Changes where the examples do: here with their number alone."""
        return str(len(self))

    def get(self, index: int, rng: np.random.RandomState) -> SourceExample:
        """Example `index`; what is random in it is drawn from `rng`."""
        return self.example(self.records[index], rng)

    def drafts(self, index: int) -> Sequence[Draft] | None:
        """Returns what `get` draws the annotations of example `index` from, in their order.

        None for datasets that draw nothing.
        """
        return None


_REGISTRY: dict[str, type[Dataset]] = {}
D = TypeVar("D", bound=type[Dataset])


def register(*names: str) -> Callable[[D], D]:
    """Class decorator: makes a dataset known by `names`, of which the first is its own."""

    def enter(dataset: D) -> D:
        dataset.name = names[0]
        for name in names:
            if name in _REGISTRY:
                raise ValueError(f"two datasets are called '{name}'")
            _REGISTRY[name] = dataset
        return dataset

    return enter


def dataset_names() -> tuple[str, ...]:
    """All known names."""
    return tuple(sorted(_REGISTRY))


def dataset_class(name: str) -> type[Dataset]:
    """The dataset of a name.

    Raises:
      DatasetError: if there is none.
    """
    if name not in _REGISTRY:
        raise DatasetError(f"no dataset is called '{name}'; known are {', '.join(dataset_names())}")
    return _REGISTRY[name]
