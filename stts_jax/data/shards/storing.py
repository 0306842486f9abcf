"""Makes records of the examples of a run's training data, with their media inside."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stts_jax.config import Config
from stts_jax.data.bad_examples import READING_ERRORS
from stts_jax.data.chains import video_settings
from stts_jax.data.datasets.base import DatasetError, Draft, SourceExample
from stts_jax.data.embedded import EmbeddedPicture
from stts_jax.data.example_chain import example_rng
from stts_jax.data.images.file import require_picture
from stts_jax.data.media import MediaCache
from stts_jax.data.media_file import require_content
from stts_jax.data.shards.example_record import CLIP, FRAMES, StoredExample, to_record
from stts_jax.data.shards.frame_coding import FrameCoding
from stts_jax.data.shards.record import MOST_BYTES, RecordError
from stts_jax.data.sources.source import Source
from stts_jax.data.stored_media import StoredClip, StoredFrames
from stts_jax.data.video.reading import VideoError

UNREADABLE = "unreadable"


class ShardError(DatasetError):
    """Shards that can't be made; the message is one sentence with the remedy."""


@dataclass(frozen=True)
class Storing:
    """Makes records of examples, numbered through over all datasets."""

    config: Config
    sources: tuple[Source, ...]
    coding: FrameCoding | None
    cache: MediaCache

    def records(self, numbers: range) -> Iterator[tuple[bytes, str]]:
        """Yields records, and what each has of a video: `clip`, `frames`, `unreadable` or ``."""
        ends = np.cumsum([len(source) for source in self.sources])
        for number in numbers:
            found = int(np.searchsorted(ends, number, side="right"))
            source = self.sources[found]
            stored = self._stored(source, number - int(ends[found] - len(source)))
            try:
                yield to_record(stored, self.coding or FrameCoding()), kind_of(stored)
            except RecordError as error:
                raise ShardError(
                    f"{stored.name} cannot be stored: {error}; leave it out, or store frames"
                ) from error

    def _stored(self, source: Source, index: int) -> StoredExample:
        number, name = source.number(index), source.called(index)
        rng = example_rng(number, 0, self.config.data.seed)
        try:
            example, drafts = _example(source, number, rng)
            return StoredExample(number, name, self._with_media(example, rng), drafts)
        except ShardError:
            raise
        except READING_ERRORS as error:
            return StoredExample(number, name, error=str(error))

    def _with_media(self, example: SourceExample, rng: np.random.RandomState) -> SourceExample:
        """The example with the content of its files."""
        if example.images and example.video is None:
            pictures = tuple(map(_picture, example.images))
            return dataclasses.replace(example, images=pictures)
        if example.video is None:
            return example
        if self.coding is None:
            return dataclasses.replace(example, stored=_clip(example.video))
        data, state = self.config.data, _state(rng)
        media = self.cache.read(
            example, video_settings(data, data.max_frames), self.config.model.vit.image_size, rng
        )
        if _state(rng) != state:  # its frames are others in the next epoch
            return dataclasses.replace(example, stored=_clip(example.video))
        video = media.video
        assert video is not None
        stored = StoredFrames(
            video.frames, video.timestamps, video.target_fps, video.augmentation, media.video_size
        )
        return dataclasses.replace(example, stored=stored)


def kind_of(stored: StoredExample) -> str:
    """Returns `clip` or `frames`, what an example has of a video; `unreadable`; or nothing."""
    if stored.example is None:
        return UNREADABLE
    if stored.example.stored is None:
        return ""
    return CLIP if isinstance(stored.example.stored, StoredClip) else FRAMES


def _example(
    source: Source, number: int, rng: np.random.RandomState
) -> tuple[SourceExample, tuple[Draft, ...] | None]:
    """An example, and what its annotations are drawn from, if they are random.

    Raises:
      ShardError: if something else of it is random.
    """
    again, before = np.random.RandomState(), rng.get_state()
    again.set_state(before)
    example = source.dataset.get(number, rng)
    if _state(rng) == _state(again):
        return example, None
    drafts = source.dataset.drafts(number)
    if drafts is not None:
        annotations = tuple(draft.draw(again) for draft in drafts)
        if annotations == tuple(example.annotations) and _state(rng) == _state(again):
            return example, tuple(drafts)
    raise ShardError(
        f"'{source.dataset.label()}' draws its examples in a manner that no shard can hold; train "
        "on it without shards"
    )


def _state(rng: np.random.RandomState) -> bytes:
    """Returns the position of a generator, to be compared."""
    state: Any = rng.get_state()
    return b"".join((state[1].tobytes(), repr(state[2:]).encode()))


def _picture(image: Path | EmbeddedPicture) -> EmbeddedPicture:
    if isinstance(image, EmbeddedPicture):
        return image
    require_picture(image)
    return EmbeddedPicture(str(image), image.read_bytes())


def _clip(path: Path) -> StoredClip:
    require_content(path, "a video file", VideoError)
    size = path.stat().st_size
    if size >= MOST_BYTES:
        raise ShardError(
            f"'{path}' has {size:,} bytes, and a record holds {MOST_BYTES:,}; store frames "
            "(--frames), or cut the video"
        )
    try:
        return StoredClip(str(path), path.read_bytes())
    except OSError as error:
        raise VideoError(f"'{path}' cannot be read: {error.strerror}; check its disk") from error
