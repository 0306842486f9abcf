"""Users' own data: a JSONL file, one object a line, about a video, images or both.

    {"video": "clips/a.mp4", "question": "What is opened?", "answer": "a door"}
    {"video": "clips/a.mp4", "question": "Where?", "options": ["left", "right"], "answer": "left"}
    {"video": "clips/b.mp4", "clip": [2.0, 9.5], "caption": "A dog runs along the beach."}
    {"images": ["1.jpg", "2.jpg"], "turns": [{"question": "What changed?", "answer": "the hat"}]}

`docs/data.md` describes every field. Paths are relative to the file.
Lines in the formats of other programs are read too, see `foreign_lines`.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from stts_jax.buckets.address import joined, path_of
from stts_jax.data.datasets.base import Annotation, Dataset, SourceExample
from stts_jax.data.embedded import EmbeddedError, EmbeddedPicture, is_data_uri, uri_content
from stts_jax.data.sources.indexed_lines import IndexedLines
from stts_jax.data.sources.line_index import Parts
from stts_jax.data.sources.media_key import line_key
from stts_jax.data.sources.own_line import Line
from stts_jax.data.sources.own_line import OwnDataError as OwnDataError
from stts_jax.data.sources.subtitle_files import read_subtitle_file

logger = logging.getLogger(__name__)

TimedLines = tuple[tuple[float, float, str], ...]


@dataclass(frozen=True)
class Media:
    """Images or a video. Lines about the same become one example.

    Attributes:
      video: file.
      clip: first and last second of the video that are shown.
      images: files.
      subtitle: a text, a file, or lines of (start, end, text) in seconds of the whole video.
    """

    video: Path | None
    clip: tuple[float, float] | None
    images: tuple[Path | EmbeddedPicture, ...]
    subtitle: str | Path | TimedLines | None


def read_own_data(path: str | Path, per_example: int | None = None) -> list[SourceExample]:
    """Read all of a file of users' own data; see `OwnData` for a file of any size.

    Lines about the same media (video, clip, images and subtitle) become the branches of one
    example, in the order of the file.

    Args:
      path: the file.
      per_example: at most that many lines in an example, the rest make further ones; all by
        default. Evaluation asks one at a time.

    Raises:
      OwnDataError: if the file is missing or empty, or at the first line that is wrong.
    """
    return list(OwnData(path, per_example).records)


class Examples(Sequence[SourceExample]):
    """The examples of a file, each made of its lines when it is asked for."""

    def __init__(self, path: Path, per_example: int | None) -> None:
        """Build the index of the file, or find it; see `read_own_data`."""
        self._lines = IndexedLines(path)
        self._folder = self._lines.file.folder
        self._parts = Parts(self._lines.index, per_example)

    @property
    def sha256(self) -> str:
        """Of the content of the file."""
        return self._lines.index.header.sha256

    @property
    def skipped(self) -> tuple[str, ...]:
        """Names of fields that are not read."""
        return self._lines.index.header.skipped

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[one] for one in range(*number.indices(len(self)))]
        if not -len(self) <= number < len(self):
            raise IndexError(f"there are {len(self)} examples, and none is number {number}")
        lines = [self._lines[one] for one in self._parts.lines(int(number) % len(self))]
        if len(lines) > 1 and len({line_key(line, self._folder) for line in lines}) > 1:
            raise self._lines.changed()
        return _example(_media(lines[0], self._folder), lines)

    def name(self, number: int) -> str:
        """The file and line of an example, of several lines the first."""
        lines = self._parts.lines(number)
        first = self._lines.location(lines[0])
        return f"{first} (and {len(lines) - 1} more about the same)" if len(lines) > 1 else first


def example_of(line: Line, folder: Path) -> SourceExample:
    """Returns the example of one line; its paths are relative to `folder`.

    Raises:
      DatasetError: if its file of subtitles cannot be read.
    """
    return with_subtitle_lines(_example(_media(line, folder), [line]))


def with_subtitle_lines(example: SourceExample) -> SourceExample:
    """Returns an example with the lines of its file of subtitles, if it names one.

    Raises:
      DatasetError: if that file cannot be read.
    """
    if not isinstance(example.subtitle, PurePath):
        return example
    lines = read_subtitle_file(example.subtitle)
    return dataclasses.replace(example, subtitle=_shown_subtitle(lines, example.clip))


def _media(line: Line, folder: Path) -> Media:
    return Media(
        video=joined(folder, line.video) if line.video is not None else None,
        clip=line.clip,
        images=tuple(_picture(line, number, folder) for number in range(len(line.images))),
        subtitle=_subtitle(line, folder),
    )


def _subtitle(line: Line, folder: Path) -> str | Path | TimedLines | None:
    """The subtitle as it stands in the line, or its file."""
    if line.subtitle_is_file:
        return joined(folder, str(line.subtitle).strip())
    return line.subtitle


def _picture(line: Line, number: int, folder: Path) -> Path | EmbeddedPicture:
    """The file of a picture, or its content."""
    image = line.images[number]
    if not is_data_uri(image):
        return joined(folder, image)
    try:
        return EmbeddedPicture(f"picture {number + 1} of {line.location}", uri_content(image))
    except EmbeddedError as error:
        raise OwnDataError(f"{line.location}: {error}") from error


def _example(media: Media, lines: Sequence[Line]) -> SourceExample:
    """The example of lines about the same media; one line's fields are metadata for its metric."""
    metadata: dict[str, Any] = {"example_id": lines[0].id, "ids": tuple(line.id for line in lines)}
    if len(lines) == 1:
        metadata |= lines[0].metadata
    return SourceExample(
        annotations=tuple(_annotation(line) for line in lines),
        video=media.video,
        clip=media.clip,
        images=media.images,
        subtitle=_shown_subtitle(media.subtitle, media.clip),
        metadata=metadata,
        names=tuple(line.location for line in lines),
        literal=True,
    )


def _annotation(line: Line) -> Annotation:
    """The fields that formatting knows.

    The styles are those whose prompts are the user's own words, without a tag before them
    (docs/reference.md#prompts and #style-tags); captions get one of the prompts that captions are
    trained with.
    """
    if line.caption is not None:
        style = "video_long_caption" if line.video else "long_caption"
        return {"style": style, "text": line.caption}
    turns: list[dict[str, Any]] = [
        {"style": "user_qa", "question": question, "answer": answer}
        for question, answer in line.turns
    ]
    for number in line.unlearnt:
        turns[number]["weight"] = 0
    if len(turns) > 1:
        return {"style": "user_qa", "multi_turn_messages": turns}
    if line.options is None:
        return turns[0]
    question, answer = line.turns[0]
    return {
        "style": _multiple_choice_style(line),
        "question": question,
        "options": list(line.options),
        "answer_idx": line.options.index(answer),
    }


def _multiple_choice_style(line: Line) -> str:
    if not line.video:
        return "a_okvqa_mc"
    return "video_multiple_choice_w_subtitle" if line.subtitle else "video_multiple_choice"


def _shown_subtitle(
    subtitle: str | Path | TimedLines | None, clip: tuple[float, float] | None
) -> str | Path | Mapping[tuple[float, float], str] | None:
    """Timed lines of the shown part, in seconds from its start; those of equal times are joined."""
    if not isinstance(subtitle, tuple):
        return subtitle
    first, last = clip or (0.0, float("inf"))
    shown: dict[tuple[float, float], str] = {}
    for start, end, text in subtitle:
        if end >= first and start <= last:
            times = (max(start - first, 0.0), end - first)
            shown[times] = f"{shown[times]} {text}" if times in shown else text
    return shown


class OwnData(Dataset):
    """A file of users' own data as a dataset. It is not in the registry: it is found by its path.

    Attributes:
      path: of the file.
    """

    name = "own_data"
    splits = ()

    def __init__(self, path: str | Path, per_example: int | None = None) -> None:
        """Read the file; see `read_own_data`."""
        self.path, self._per_example = path_of(path), per_example
        self.root, self.split = self.path.parent, self.path.stem
        self.records: Examples = self.read()
        if skipped := self.records.skipped:
            logger.warning("%s: fields that are not read: %s", self.path, ", ".join(skipped))

    def read(self) -> Examples:
        """The examples."""
        return Examples(self.path, self._per_example)

    def called(self, index: int) -> str:
        """Its file and line, of several lines the first."""
        return self.records.name(index)

    def label(self) -> str:
        """The name of the file."""
        return self.path.name

    def fingerprint(self) -> str:
        """Changes with the content of the file, wherever and whenever it was written."""
        return self.records.sha256[:16]

    def example(self, record: SourceExample, rng: np.random.RandomState) -> SourceExample:
        """Returns it as it was read, with the lines of a file of subtitles; nothing is drawn.

        Raises:
          DatasetError: if that file cannot be read.
        """
        return with_subtitle_lines(record)
