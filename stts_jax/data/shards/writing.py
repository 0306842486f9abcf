"""Writes shards of the training data of a run: all of them, or one part of several."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath
from tqdm import tqdm

from stts_jax.config import Config
from stts_jax.data.datasets.base import DatasetError
from stts_jax.data.media import MediaCache
from stts_jax.data.shards.example_record import CLIP
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
from stts_jax.data.shards.storing import UNREADABLE, ShardError, Storing
from stts_jax.data.shards.whole_files import folder_at, write_file, write_whole
from stts_jax.data.sources.configured import sources_of
from stts_jax.data.synthetic import DEFAULT_FOLDER

# A record at a time is read at random; clips and JPEG are compressed already.
WRITER_OPTIONS = "group_size:1,uncompressed"


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
    part, target = part or Part(), folder_at(out)
    sources = sources_of(config, "train", folder)
    media = CLIPS if coding is None else str(coding)
    manifest = Manifest.of(config, sources, media, per_shard)
    _settle(target, manifest)
    storing = Storing(config, sources, coding, MediaCache(False))
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
        _require_manifest(target, manifest)  # other options may have been begun with at once
        write_complete(target, manifest, everything)
    return Written(
        manifest, made, len(infos) - made, infos, missing=manifest.shards - len(everything)
    )


def _settle(target: epath.Path, manifest: Manifest) -> None:
    """Writes the manifest, or refuses a folder that has another."""
    if (target / MANIFEST).exists():
        _require_manifest(target, manifest)
        return
    # Another part may just be writing the manifest, under another name.
    if target.exists() and any(not path.name.startswith(".") for path in target.iterdir()):
        if not (target / MANIFEST).exists():
            raise ShardError(f"'{target}' holds other files; name an empty folder or a new one")
        return _settle(target, manifest)
    target.mkdir(parents=True, exist_ok=True)
    write_whole(target / MANIFEST, manifest.to_json())
    _require_manifest(target, manifest)


def _require_manifest(target: epath.Path, manifest: Manifest) -> None:
    there = read_manifest(target)
    if there != manifest:
        raise ShardError(
            f"'{target}' holds shards that were made otherwise: {_difference(there, manifest)}; "
            "name another folder, or delete this one"
        )


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


def _write_shard(target: epath.Path, manifest: Manifest, shard: int, storing: Storing) -> ShardInfo:
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
