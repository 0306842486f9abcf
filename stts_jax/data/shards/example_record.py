"""An example of a dataset as a record, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stts_jax.data.datasets.academic.shared import STORED_KINDS
from stts_jax.data.datasets.base import Draft, SourceExample
from stts_jax.data.datasets.stored_records import UnstorableError, decoded, encoded
from stts_jax.data.embedded import EmbeddedPicture
from stts_jax.data.shards.frame_coding import FrameCoding
from stts_jax.data.shards.record import Part, RecordError, packed, unpacked
from stts_jax.data.stored_media import StoredClip, StoredFrames

KINDS: dict[str, type] = {kind.__name__: kind for kind in STORED_KINDS if hasattr(kind, "draw")}
CLIP, FRAMES = "clip", "frames"


@dataclass(frozen=True)
class StoredExample:
    """An example with its media inside, or why there is none.

    Attributes:
      number: of the example in its dataset.
      name: of the example in messages.
      example: with the bytes of its pictures, and its video in `stored`.
      drafts: what its annotations are drawn from, where they are random.
      error: message of the fault that it had when it was stored.
    """

    number: int
    name: str
    example: SourceExample | None = None
    drafts: tuple[Draft, ...] | None = None
    error: str | None = None

    def drawn(self, rng: np.random.RandomState) -> SourceExample | None:
        """Returns the example with its annotations drawn from `rng`."""
        if self.example is None or self.drafts is None:
            return self.example
        annotations = tuple(draft.draw(rng) for draft in self.drafts)
        return dataclasses.replace(self.example, annotations=annotations)


def to_record(stored: StoredExample, coding: FrameCoding) -> bytes:
    """Returns the record of an example.

    Raises:
      RecordError: if it has something that no record holds.
    """
    described: dict[str, Any] = {"number": stored.number, "name": stored.name}
    if stored.example is None:
        return packed(described | {"error": stored.error}, [])
    example = stored.example
    media, parts = _media_parts(example, coding)
    annotations = example.annotations if stored.drafts is None else stored.drafts
    try:
        described |= {
            "drawn": stored.drafts is not None,
            "annotations": [encoded(_plain(annotation), KINDS) for annotation in annotations],
            "subtitle": encoded(_plain(example.subtitle), KINDS),
            "metadata": encoded(_plain(example.metadata), KINDS),
        }
    except UnstorableError as error:
        raise RecordError(str(error)) from error
    described |= {
        "video": None if example.video is None else str(example.video),
        "clip": None if example.clip is None else list(example.clip),
        "images": [str(image) for image in example.images],
        "names": list(example.names),
        "literal": example.literal,
        "media": media,
    }
    return packed(described, parts)


def from_record(record: bytes, coding: FrameCoding) -> StoredExample:
    """Returns the example of a record.

    Raises:
      RecordError: if it is not one of an example.
    """
    found, parts = unpacked(record)
    try:
        return _example(found, parts, coding)
    except RecordError:
        raise
    except (
        KeyError,
        TypeError,
        ValueError,
        ArithmeticError,
        AttributeError,
        RecursionError,
    ) as error:
        raise RecordError(f"its description is of another form ({str(error)[:80]})") from error


def _example(found: Any, parts: Sequence[Part], coding: FrameCoding) -> StoredExample:
    number, name = int(found["number"]), str(found["name"])
    if "error" in found:
        return StoredExample(number, name, error=str(found["error"]))
    drawn = found["drawn"] is True
    annotations: tuple[Any, ...] = tuple(decoded(found["annotations"], KINDS))
    kinds = tuple(KINDS.values()) if drawn else (dict,)
    if not all(isinstance(annotation, kinds) for annotation in annotations):
        raise RecordError("its annotations are of another form")
    metadata = decoded(found["metadata"], KINDS)
    if not isinstance(metadata, dict):
        raise RecordError("its metadata are of another form")
    images, clip = found["images"], found["clip"]
    pictures = tuple(
        EmbeddedPicture(str(image), bytes(part))
        for image, part in zip(images, parts[: len(images)], strict=True)
    )
    video = None if found["video"] is None else str(found["video"])
    example = SourceExample(
        annotations=() if drawn else annotations,
        video=None if video is None else Path(video),
        clip=None if clip is None else (_number(clip[0]), _number(clip[1])),
        images=pictures,
        subtitle=decoded(found["subtitle"], KINDS),
        metadata=metadata,
        names=tuple(map(str, found["names"])),
        literal=found["literal"] is True,
        stored=_video(found["media"], video, parts[len(images) :], coding),
    )
    return StoredExample(number, name, example, annotations if drawn else None)


def _video(
    media: Any, name: str | None, parts: Sequence[Part], coding: FrameCoding
) -> StoredClip | StoredFrames | None:
    if (name is None) != (media is None):
        raise RecordError("it has a video without content, or content without a video")
    if name is None:
        return None
    if media["kind"] == CLIP:
        (content,) = parts
        return StoredClip(name, content)
    if media["kind"] != FRAMES:
        raise RecordError("its media are of an unknown kind")
    shape = tuple(int(length) for length in media["shape"])
    times = np.array([float(second) for second in media["times"]], np.float64)
    frames = coding.decoded(parts, shape)
    if len(times) != len(frames):
        raise RecordError(f"it has {len(times)} times for {len(frames)} frames")
    size = media["video_size"]
    return StoredFrames(
        frames=frames,
        timestamps=times,
        target_fps=None if media["target_fps"] is None else _number(media["target_fps"]),
        augmentation=None if media["augmentation"] is None else str(media["augmentation"]),
        video_size=None if size is None else (int(size[0]), int(size[1])),
    )


def _media_parts(example: SourceExample, coding: FrameCoding) -> tuple[Any, list[Part]]:
    """The description of an example's video, and the contents of its pictures or its video."""
    contents: list[Part] = []
    for image in example.images:
        assert isinstance(image, EmbeddedPicture)
        contents.append(image.content)
    stored = example.stored
    if stored is None:
        return None, contents
    if isinstance(stored, StoredClip):
        return {"kind": CLIP}, [*contents, stored.content]
    assert isinstance(stored, StoredFrames)  # datasets give no others
    media = {
        "kind": FRAMES,
        "shape": list(stored.frames.shape),
        "times": stored.timestamps.tolist(),
        "target_fps": stored.target_fps,
        "augmentation": stored.augmentation,
        "video_size": None if stored.video_size is None else list(stored.video_size),
    }
    return media, [*contents, *coding.encoded(stored.frames)]


def _number(value: Any) -> Any:
    """Returns a number as it is: 2 and 2.0 are worded differently."""
    if type(value) not in (int, float):
        raise RecordError("it has something else where a number belongs")
    return value


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value
