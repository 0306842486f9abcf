"""The files that say what a folder of shards holds, and how it was made.

    manifest.json   written first, the same by every part: datasets, media, settings, layout
    examples-00003-of-00040.array_record        a shard
    examples-00003-of-00040.array_record.json   written after it: its records, bytes, SHA-256
    complete.json   written last: the same of all shards

A shard counts when its own JSON file is there, and the set when `complete.json` is: nothing
depends on renaming, which buckets lack.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from etils import epath

from stts_jax.config import Config
from stts_jax.data.datasets.base import DatasetError
from stts_jax.data.shards.frame_coding import FrameCoding
from stts_jax.data.shards.whole_files import write_whole
from stts_jax.data.sources.own_data import OwnData
from stts_jax.data.sources.source import Source
from stts_jax.data.text.message_weight import MessageWeight
from stts_jax.quoting import shorten

VERSION = 1
MANIFEST, COMPLETE = "manifest.json", "complete.json"
CLIPS = "clips"
MOST_JSON_BYTES = 1 << 30
T = TypeVar("T")
# What decides which frames are stored, and what decides which lines of own data are one example.
FRAME_SETTINGS = ("data.max_frames", "data.fps", "data.decoder", "model.vit.image_size")
OWN_SETTINGS = ("data.questions_per_video",)


@dataclass(frozen=True)
class SourceEntry:
    """A dataset of the set.

    Attributes:
      name, label, fingerprint: of the dataset.
      examples: that are stored.
      rate, weight, p_high_res: see `Source`.
      own: whether it is users' own data, whose wording a run chooses.
      numbers: of the examples in the dataset, None for 0, 1, 2...
    """

    name: str
    label: str
    fingerprint: str
    examples: int
    rate: float
    weight: dict[str, Any] | None
    p_high_res: float | None
    own: bool
    numbers: list[int] | None

    @classmethod
    def of(cls, source: Source) -> SourceEntry:
        """Returns the entry of a source of a run."""
        return cls(
            name=source.dataset.name,
            label=source.dataset.label(),
            fingerprint=source.dataset.fingerprint(),
            examples=len(source),
            rate=float(source.rate),
            weight=None if source.weight is None else dataclasses.asdict(source.weight),
            p_high_res=source.p_high_res,
            own=isinstance(source.dataset, OwnData),
            numbers=None if source.indices is None else source.indices.tolist(),
        )

    @property
    def message_weight(self) -> MessageWeight | None:
        """The weight of its answers."""
        return None if self.weight is None else MessageWeight(**self.weight)

    @property
    def indices(self) -> np.ndarray | None:
        """The numbers as an array."""
        return None if self.numbers is None else np.array(self.numbers, np.int64)


@dataclass(frozen=True)
class Manifest:
    """What a folder of shards holds.

    Attributes:
      media: `clips`, or the name of the coding of frames.
      settings: of the run that they are made for, those that a training run must have too.
      per_shard: examples in a shard; the last may have fewer.
      sources: the datasets; their examples are numbered through in this order.
      version: of this form.
    """

    media: str
    settings: dict[str, Any]
    per_shard: int
    sources: tuple[SourceEntry, ...]
    version: int = VERSION

    @classmethod
    def of(
        cls, config: Config, sources: tuple[Source, ...], media: str, per_shard: int
    ) -> Manifest:
        """Returns the manifest of the training data of a run."""
        entries = tuple(map(SourceEntry.of, sources))
        names: tuple[str, ...] = OWN_SETTINGS if any(entry.own for entry in entries) else ()
        names += () if media == CLIPS else FRAME_SETTINGS
        settings = {name: setting_of(config, name) for name in names}
        return cls(media, settings, per_shard, entries)

    @property
    def coding(self) -> FrameCoding:
        """How frames are stored."""
        return FrameCoding() if self.media == CLIPS else FrameCoding.named(self.media)

    @property
    def examples(self) -> int:
        """How many there are."""
        return sum(entry.examples for entry in self.sources)

    @property
    def shards(self) -> int:
        """How many there are."""
        return -(-self.examples // self.per_shard)

    def records(self, shard: int) -> range:
        """Numbers of the examples of a shard, counted over all datasets."""
        first = shard * self.per_shard
        return range(first, min(first + self.per_shard, self.examples))

    def shard_name(self, shard: int) -> str:
        """The name of the file of a shard."""
        return f"examples-{shard:05d}-of-{self.shards:05d}.array_record"

    def to_json(self) -> str:
        """Returns the content of its file."""
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True) + "\n"

    def hash(self) -> str:
        """Returns a hash of all of it."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def require_settings(self, config: Config, folder: str) -> None:
        """Refuse a run that would read other frames or examples of the data themselves.

        Raises:
          DatasetError: naming the setting and both values.
        """
        for name, stored in self.settings.items():
            if (wanted := setting_of(config, name)) != stored:
                raise DatasetError(
                    f"the shards in '{folder}' were made with {name}={stored}, and this run has "
                    f"{wanted}; set it to {stored}, or make shards with {name}={wanted}"
                )


@dataclass(frozen=True)
class ShardInfo:
    """What is known of a finished shard.

    Attributes:
      records, bytes, sha256: of its file.
      clips: examples whose clip is stored although frames were asked for, as they are drawn anew in
        each epoch.
      unreadable: examples that could not be read.
    """

    records: int
    bytes: int
    sha256: str
    clips: int
    unreadable: int


def setting_of(config: Config, name: str) -> Any:
    """Returns the value of a setting by its dotted name."""
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part)
    return value


def read_manifest(folder: epath.Path) -> Manifest:
    """Read the manifest of a folder.

    Raises:
      DatasetError: if there is none, or it is damaged or of another version.
    """
    return _read(folder / MANIFEST, _manifest)


def read_info(file: epath.Path) -> ShardInfo:
    """Read what is known of a shard; raises as `read_manifest` does."""
    return _read(file, lambda found: ShardInfo(**_typed(ShardInfo, found)))


def write_complete(folder: epath.Path, manifest: Manifest, infos: list[ShardInfo]) -> None:
    """Write down that all shards are there."""
    shards = [dataclasses.asdict(info) for info in infos]
    found = {"manifest": manifest.hash(), "shards": shards}
    write_whole(folder / COMPLETE, json.dumps(found, indent=1, sort_keys=True) + "\n")


def read_complete(folder: epath.Path, manifest: Manifest) -> list[ShardInfo]:
    """Read what is known of all shards of a folder.

    Raises:
      DatasetError: if they are not all there, or the file is damaged or of another manifest.
    """
    if not (folder / COMPLETE).exists():
        missing = [
            shard
            for shard in range(manifest.shards)
            if not (folder / f"{manifest.shard_name(shard)}.json").exists()
        ]
        named = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        raise DatasetError(
            f"of the {manifest.shards} shards in '{folder}' {len(missing)} are not made ({named}); "
            "run the command that makes them again, with the same options: it makes what is missing"
        )

    def parse(found: Any) -> list[ShardInfo]:
        if found["manifest"] != manifest.hash():
            raise ValueError("it belongs to another manifest")
        infos = [ShardInfo(**_typed(ShardInfo, info)) for info in found["shards"]]
        if [info.records for info in infos] != [
            len(manifest.records(shard)) for shard in range(manifest.shards)
        ]:
            raise ValueError("its shards are not those of the manifest")
        return infos

    return _read(folder / COMPLETE, parse)


def _read(path: epath.Path, parse: Callable[[Any], T]) -> T:
    try:
        if path.stat().length > MOST_JSON_BYTES:
            raise ValueError(f"it has more than {MOST_JSON_BYTES:,} bytes")
        return parse(json.loads(path.read_text()))
    except FileNotFoundError as error:
        raise DatasetError(
            f"'{path}' does not exist; name the folder that python -m stts_jax.data shard has "
            "written"
        ) from error
    except OSError as error:
        raise DatasetError(
            f"'{path}' cannot be read ({error.strerror or error}); check its folder and permissions"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DatasetError(
            f"'{path}' is damaged or of another version ({str(error)[:80]}); make the shards again"
        ) from error


def _manifest(found: Any) -> Manifest:
    if found["version"] != VERSION:
        raise ValueError(f"version {shorten(found['version'])}, and {VERSION} is read")
    values = _typed(Manifest, found)
    if not isinstance(values["settings"], dict) or values["per_shard"] < 1:
        raise ValueError("its settings are of another form")
    if not set(values["settings"]) <= {*FRAME_SETTINGS, *OWN_SETTINGS}:
        raise ValueError("it has unknown settings")
    entries = []
    for entry in values.pop("sources"):
        made = SourceEntry(**_typed(SourceEntry, entry))
        if made.examples < 0 or not 0 <= made.rate <= 1:
            raise ValueError("a dataset has an impossible size or rate")
        if made.numbers is not None and len(made.numbers) != made.examples:
            raise ValueError("a dataset has another number of numbers than of examples")
        made.message_weight, made.indices  # noqa: B018  raise if they are of another form
        entries.append(made)
    manifest = Manifest(sources=tuple(entries), **values)
    _ = manifest.coding
    if not manifest.examples:
        raise ValueError("it has no examples")
    return manifest


_KINDS = {"str": str, "int": int, "bool": bool, "float": (int, float)}


def _typed(kind: Any, values: Any) -> dict[str, Any]:
    """Returns the fields of a dataclass; those of plain types are checked."""
    names = {part.name: part.type for part in dataclasses.fields(kind)}
    if not isinstance(values, dict) or set(values) != set(names):
        raise ValueError("its fields are others")
    for name, type_name in names.items():
        plain: Any = _KINDS.get(str(type_name))
        value = values[name]
        if plain and (not isinstance(value, plain) or (plain is int and isinstance(value, bool))):
            raise ValueError(f"{name} is {shorten(value, 40)}")
    return dict(values)
