"""Shared by the academic datasets: questions with random parts, and examples by video.

The reference draws templates and positions of answers once, when it reads a dataset, from the
global generator; so they depend on what was read before. Here they are drawn with each example,
from the generator that is handed in.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from stts_jax.data.datasets.base import (
    Annotation,
    Dataset,
    DatasetError,
    Draft,
    SourceExample,
    Subtitles,
)
from stts_jax.data.datasets.looked_at import is_file
from stts_jax.data.datasets.reading import list_files, read_json
from stts_jax.data.datasets.stored_records import stored

MULTIPLE_CHOICE = "video_multiple_choice"
MULTIPLE_CHOICE_WITH_SUBTITLE = "video_multiple_choice_w_subtitle"
EVALUATED_MULTIPLE_CHOICE = "video_eval_multiple_choice"
SHORT_ANSWER = "video_short_answer"

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
LETTER_INSTRUCTION = "Answer with the option's letter from the given choices directly."

# Three templates that many datasets of actions use; the wording models were trained with.
ACTION_QUESTIONS = (
    "What action is being performed?",
    "What action is occurring?",
    "What activity does the video depict?",
)
PERSON_QUESTIONS = (
    "What action is being performed?",
    "What is the person doing?",
    "What action is the person taking?",
    "What activity does the video depict?",
)

Clip = tuple[float, float]
# What reading a record raises if it isn't what it should be.
WRONG_FORM = (KeyError, IndexError, TypeError, ValueError, AttributeError, SyntaxError)


@dataclass(frozen=True, slots=True)
class Asked:
    """A question, and one of several answers; or one of several questions."""

    style: str
    questions: Sequence[str]
    answers: Sequence[str]

    def draw(self, rng: np.random.RandomState) -> Annotation:
        question, answer = choose(self.questions, rng), choose(self.answers, rng)
        return {"style": self.style, "question": question, "answer": answer}


@dataclass(frozen=True, slots=True)
class Choice:
    """A question with options; `answer_idx` is the right one, from 0."""

    question: str
    options: Sequence[str]
    answer_idx: int
    style: str = MULTIPLE_CHOICE

    def __post_init__(self) -> None:
        if not 0 <= self.answer_idx < len(self.options):
            raise DatasetError(
                f"the question '{self.question}' has {len(self.options)} options, and answer "
                f"{self.answer_idx} (from 0) is not one of them"
            )

    def draw(self, rng: np.random.RandomState) -> Annotation:
        return {
            "style": self.style,
            "question": self.question,
            "options": list(self.options),
            "answer_idx": self.answer_idx,
        }


@dataclass(frozen=True, slots=True)
class UnplacedChoice:
    """A question with its answer and wrong ones; the position of the answer is random."""

    question: str
    answer: str
    wrong: Sequence[str]
    style: str = MULTIPLE_CHOICE

    def draw(self, rng: np.random.RandomState) -> Annotation:
        position = rng.randint(len(self.wrong) + 1)
        options = [*self.wrong[:position], self.answer, *self.wrong[position:]]
        return Choice(self.question, options, position, self.style).draw(rng)


@dataclass(frozen=True, slots=True)
class Fixed:
    """An annotation as it is."""

    annotation: Annotation

    def draw(self, rng: np.random.RandomState) -> Annotation:
        return self.annotation


def short_answer(question: str, answer: Any) -> Asked:
    """A question and its answer, which may be a number."""
    return Asked(SHORT_ANSWER, (question,), (str(answer),))


def choose(values: Sequence[str], rng: np.random.RandomState) -> str:
    """One of the values, each as likely; nothing is drawn if there is but one."""
    return values[0] if len(values) == 1 else values[rng.randint(len(values))]


@dataclass(frozen=True, slots=True)
class VideoRecord:
    """A video, or a clip of it, and the annotations on it.

    Attributes:
      video: file, relative to the root folder.
      drafts: annotations.
      clip: first and last second, None for all of the video.
      subtitle: see `SourceExample`.
      metadata: see `SourceExample`.
    """

    video: str
    drafts: Sequence[Draft]
    clip: Clip | None = None
    subtitle: str | Subtitles | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


# What records are made of, as files keep them.
STORED_KINDS = (VideoRecord, Asked, Choice, UnplacedChoice, Fixed)


class VideoDataset(Dataset):
    """A dataset of videos; a subclass tells its records.

    Attributes:
      folder: below the root folder, holds the annotations.
    """

    folder: ClassVar[str] = ""

    @abstractmethod
    def collect(self) -> Iterable[VideoRecord]:
        """Read the annotation files."""

    def file(self, name: str) -> Path:
        """A file or folder of the dataset, by its path below `folder`."""
        return self.root / self.folder / name

    @property
    def short_split(self) -> str:
        """The split as most files name it: train, val or test."""
        return "val" if self.split == "validation" else self.split

    def read(self) -> Sequence[VideoRecord]:
        """The records, in the order of the annotations; those of large datasets are in a file.

        Raises:
          DatasetError: naming the dataset and where it is found, if a file is missing or damaged
            or nothing is left of the records.
        """
        name = f"{self.name}:{self.split}:{self.root.absolute()}"
        return stored(self._collected, f"{type(self).__qualname__}:{name}", STORED_KINDS)

    def _collected(self) -> list[VideoRecord]:
        try:
            records = list(self.collect())
        except DatasetError as error:
            raise DatasetError(f"dataset '{self.name}': {error} (see {self.home})") from error
        except WRONG_FORM as error:
            raise DatasetError(
                f"dataset '{self.name}': an annotation file in '{self.file('')}' is damaged, or of "
                f"another release than {self.home} has ({type(error).__name__}: {error})"
            ) from error
        if not records:
            raise DatasetError(
                f"dataset '{self.name}': no record of split '{self.split}' has a video below "
                f"'{self.root}'; get the videos from {self.home}"
            )
        return records

    def example(self, record: VideoRecord, rng: np.random.RandomState) -> SourceExample:
        """All annotations of a record, with what is random in them drawn in their order."""
        return SourceExample(
            annotations=tuple(draft.draw(rng) for draft in record.drafts),
            video=self.root / record.video,
            clip=record.clip,
            subtitle=record.subtitle,
            metadata=record.metadata,
        )

    def drafts(self, index: int) -> Sequence[Draft]:
        """Returns what the annotations of an example are drawn from."""
        return self.records[index].drafts


class ByVideo:
    """Puts the annotations on one video, or one clip of it, together."""

    def __init__(self) -> None:
        """Starts without annotations."""
        self._drafts: dict[tuple[str, Clip | None], list[Draft]] = {}

    def add(self, video: str, *drafts: Draft, clip: Clip | None = None) -> None:
        """Add annotations after those that the clip has."""
        self._drafts.setdefault((video, clip), []).extend(drafts)

    def drafts(self, video: str, clip: Clip | None = None) -> Sequence[Draft]:
        """Returns the annotations of the clip so far."""
        return self._drafts.get((video, clip), [])

    def records(
        self, at_most: int | None = None, metadata: Mapping[str, Any] | None = None
    ) -> Iterator[VideoRecord]:
        """A record for each clip with annotations, in the order in which they came.

        Args:
          at_most: annotations in a record; a clip with more gets several.
          metadata: of all records.
        """
        for (video, clip), drafts in self._drafts.items():
            for group in split_evenly(drafts, at_most):
                yield VideoRecord(video, tuple(group), clip, metadata=metadata or {})


def split_evenly(items: Sequence[Draft], at_most: int | None) -> Iterator[Sequence[Draft]]:
    """Splits into as few groups of at most that many items as will do, larger ones first.

    Source: olmo/util.py, `split_into_groups`.
    """
    if not items:
        return
    groups = -(-len(items) // at_most) if at_most else 1
    size, larger = divmod(len(items), groups)
    start = 0
    for group in range(groups):
        end = start + size + (group < larger)
        yield items[start:end]
        start = end


def extensions_of(known: Path, videos: Path) -> Mapping[str, str | None]:
    """Maps the name of a video to its extension (".mp4"), None where it is absent.

    Args:
      known: JSON file that tells, written by the reference's download.
      videos: folder that tells, if there is no such file.
    """
    if is_file(known):
        return read_json(known)
    extensions: dict[str, str | None] = {}
    for name in sorted(list_files(videos)):
        stem, dot, extension = name.rpartition(".")
        if extension in ("mkv", "mp4", "webm"):
            extensions.setdefault(stem, dot + extension)
    return extensions


def lettered(question: str, options: Sequence[str]) -> str:
    """A question as benchmarks print it: options by letter, and the request for a letter."""
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]
    return "\n".join([question, *lines, LETTER_INSTRUCTION])
