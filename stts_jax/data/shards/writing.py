"""Writes shards of the training data of a run: all of them, or one part of several."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath
from tqdm import tqdm

from stts_jax.config import Config
from stts_jax.data.bad_examples import READING_ERRORS
from stts_jax.data.chains import video_settings
from stts_jax.data.datasets.base import DatasetError, Draft, SourceExample
from stts_jax.data.embedded import EmbeddedPicture
from stts_jax.data.example_chain import example_rng
from stts_jax.data.images.file import require_picture
from stts_jax.data.media import MediaCache
from stts_jax.data.media_file import require_content
from stts_jax.data.shards.example_record import CLIP, StoredExample, to_record
from stts_jax.data.shards.frame_coding import FrameCoding
from stts_jax.data.shards.manifest import (
    CLIPS,
    MANIFEST,
    Manifest,
    ShardInfo,
    read_info,
    read_manifest,
    write_complete,
)
from stts_jax.data.shards.record import MOST_BYTES, RecordError
from stts_jax.data.shards.whole_files import write_file, write_whole
from stts_jax.data.sources.configured import sources_of
from stts_jax.data.sources.source import Source
from stts_jax.data.stored_media import StoredClip, StoredFrames
from stts_jax.data.synthetic import DEFAULT_FOLDER
from stts_jax.data.video.reading import VideoError

# A record at a time is read at random; clips and JPEG are compressed already.
WRITER_OPTIONS = "group_size:1,uncompressed"
UNREADABLE = "unreadable"


class ShardError(DatasetError):
    """Shards that can't be made; the message is one sentence with the remedy."""


@dataclass(frozen=True)
class Part:
    """A share of the shards: of every `count` the one at `index`."""

    index: int = 0
    count: int = 1

    @classmethod
    def named(cls, name: str) -> Part:
        """Returns the part of `i/n`, with i from 0.

        Raises:
          ShardError: if it is none.
        """
        index, slash, count = name.partition("/")
        if slash and all(
            one.isascii() and one.isdigit() and len(one) < 8 for one in (index, count)
        ):
            part = cls(int(index), int(count))
            if part.index < part.count:
                return part
        raise ShardError(f"--part is '{name[:80]}'; use i/n, with i from 0 to n - 1")


@dataclass(frozen=True)
class Written:
    """What a call has done.

    Attributes:
      manifest: of the folder.
      made: shards that were written.
      kept: shards of this part that were there.
      infos: of the shards of this part.
      missing: shards of other parts that are not there yet.
    """

    manifest: Manifest
    made: int
    kept: int
    infos: list[ShardInfo]
    missing: int


def write_shards(
    config: Config,
    out: str,
    *,
    coding: FrameCoding | None = None,
    part: Part | None = None,
    per_shard: int,
    folder: Path = DEFAULT_FOLDER,
    progress: bool = False,
) -> Written:
    """Write those shards of a part that are not there yet.

    Args:
      config: `data.train` names what is stored, other settings say which frames.
      out: folder of the shards, made if need be.
      coding: of frames; clips are stored as they are if None.
      part: of the shards, all by default.
      per_shard: examples in a shard.
      folder: of the procedural set.
      progress: whether to show a bar (on a terminal).

    Raises:
      ShardError: if the folder holds shards of other data or settings, or an example cannot be
        stored. See also `sources_of`.
    """
    part = part or Part()
    sources = sources_of(config, "train", folder)
    media = CLIPS if coding is None else str(coding)
    manifest = Manifest.of(config, sources, media, per_shard)
    target = epath.Path(out)
    _settle(target, manifest)
    storing = _Storing(config, sources, coding, MediaCache(False))
    mine = range(part.index, manifest.shards, part.count)
    bar = tqdm(mine, unit="shard", desc="writing", disable=None if progress else True)
    infos, made = [], 0
    for shard in bar:
        known = _finished(target, manifest, shard)
        made += known is None
        infos.append(known or _write_shard(target, manifest, shard, storing))
    others = [_finished(target, manifest, shard) for shard in range(manifest.shards)]
    everything = [info for info in others if info is not None]
    if len(everything) == manifest.shards:
        write_complete(target, manifest, everything)
    return Written(
        manifest, made, len(infos) - made, infos, missing=manifest.shards - len(everything)
    )


def _settle(target: epath.Path, manifest: Manifest) -> None:
    """Writes the manifest, or refuses a folder that has another."""
    if (target / MANIFEST).exists():
        there = read_manifest(target)
        if there != manifest:
            raise ShardError(
                f"'{target}' holds shards that were made otherwise: "
                f"{_difference(there, manifest)}; name another folder, or delete this one"
            )
        return
    # Another part may just be writing the manifest, under another name.
    if target.exists() and any(not path.name.startswith(".") for path in target.iterdir()):
        if not (target / MANIFEST).exists():
            raise ShardError(f"'{target}' holds other files; name an empty folder or a new one")
        return _settle(target, manifest)
    target.mkdir(parents=True, exist_ok=True)
    write_whole(target / MANIFEST, manifest.to_json())


def _difference(there: Manifest, wanted: Manifest) -> str:
    """Names the first field that differs."""
    for name in ("media", "settings", "per_shard"):
        if (old := getattr(there, name)) != (new := getattr(wanted, name)):
            return f"{name} {old}, not {new}"
    for old, new in zip(there.sources, wanted.sources, strict=False):
        if old != new:
            return f"of other examples of '{old.label}'"
    return f"of {len(there.sources)} datasets, not {len(wanted.sources)}"


def _finished(target: epath.Path, manifest: Manifest, shard: int) -> ShardInfo | None:
    """What is known of a shard that is whole."""
    path = target / manifest.shard_name(shard)
    note = path.with_name(f"{path.name}.json")
    if not note.exists() or not path.exists():
        return None
    try:
        info = read_info(note)
    except DatasetError:  # it is made again
        return None
    whole = path.stat().length == info.bytes and info.records == len(manifest.records(shard))
    return info if whole else None


def _write_shard(
    target: epath.Path, manifest: Manifest, shard: int, storing: _Storing
) -> ShardInfo:
    path, counts = target / manifest.shard_name(shard), Counter[str]()

    def write(name: str) -> None:
        writer = ArrayRecordWriter(name, WRITER_OPTIONS)
        try:
            for record, kind in storing.records(manifest.records(shard)):
                writer.write(record)
                counts[kind] += 1
        finally:
            writer.close()

    try:
        size, sha256 = write_file(path, write)
    except (RuntimeError, ValueError) as error:  # as ArrayRecord's writer says it
        if isinstance(error, DatasetError):
            raise
        raise ShardError(
            f"'{path}' cannot be written ({str(error)[:200]}); check its folder and the room on "
            "its disk"
        ) from error
    records = len(manifest.records(shard))
    clips = counts[CLIP] if storing.coding is not None else 0
    info = ShardInfo(records, size, sha256, clips, counts[UNREADABLE])
    text = json.dumps(dataclasses.asdict(info), indent=1, sort_keys=True) + "\n"
    write_whole(path.with_name(f"{path.name}.json"), text)
    return info


@dataclass(frozen=True)
class _Storing:
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
                yield to_record(stored, self.coding or FrameCoding()), _kind(stored)
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


def _kind(stored: StoredExample) -> str:
    if stored.example is None:
        return UNREADABLE
    if stored.example.stored is None:
        return ""
    return CLIP if isinstance(stored.example.stored, StoredClip) else "frames"


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
