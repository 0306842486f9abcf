"""Reading the images or the video of an example."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stts_jax.buckets.address import is_bucket
from stts_jax.buckets.errors import BucketError
from stts_jax.data.datasets.base import SourceExample
from stts_jax.data.embedded import EmbeddedPicture
from stts_jax.data.images.file import ImageError, load_image
from stts_jax.data.images.image import resize
from stts_jax.data.stored_media import GivenFrames, StoredFrames
from stts_jax.data.video.reading import (
    Transform,
    Video,
    VideoError,
    VideoOverrides,
    count_sampled,
    read_sampled,
)
from stts_jax.data.video.settings import VideoSettings


class MediaError(ValueError):
    """An example whose media cannot be shown; the message is one sentence with the remedy."""


@dataclass(frozen=True)
class Media:
    """Loaded images or video of an example; nothing for text alone.

    Attributes:
      images: (H, W, 3) uint8 each.
      video: sampled frames, perhaps already squashed.
      video_size: width and height of the frames as they are stored, None for those of `video`.

    Raises:
      MediaError: if there are both.
    """

    images: tuple[np.ndarray, ...] = ()
    video: Video | None = None
    video_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.video is not None and self.images:
            raise MediaError(
                f"an example has both a video and {len(self.images)} images; leave one out"
            )

    def sizes(self) -> dict[str, Any]:
        """`image_size`, (width, height) in pixels, or of several images `image_group_size`."""
        if self.video is not None:
            height, width = self.video.frames.shape[1:3]
            return {"image_size": self.video_size or (width, height)}
        sizes = [(image.shape[1], image.shape[0]) for image in self.images]
        if len(sizes) > 1:
            return {"image_group_size": sizes}
        return {"image_size": sizes[0]} if sizes else {}


def read_media(
    source: SourceExample,
    settings: VideoSettings,
    frame_size: int,
    rng: np.random.RandomState | None = None,
) -> Media:
    """Read the files of an example.

    Args:
      source: the example. Its metadata may override the sampling of its video, see
        `VideoOverrides.from_metadata`.
      settings: which frames are taken.
      frame_size: pixels that frames are squashed to as they are decoded.
      rng: in training, for the sampling of frames.

    Raises:
      MediaError: if it has both a video and images.
      VideoError, ImageError: if a file cannot be read.
    """
    if source.video is not None and source.images:
        raise MediaError(
            f"an example has both the video '{source.video}' and {len(source.images)} images; "
            "leave one out"
        )
    if source.video is None:
        return Media(tuple(map(_read_picture, source.images)))
    if isinstance(source.stored, StoredFrames):
        return _of_frames(source.stored, frame_size)
    squash = _Squash(frame_size)
    video = read_frames(source, settings, squash, rng)
    return Media(video=video, video_size=squash.size)


def read_frames(
    source: SourceExample,
    settings: VideoSettings,
    transform: Transform,
    rng: np.random.RandomState | None = None,
) -> Video:
    """Returns the sampled frames of an example's video, each transformed as it is decoded.

    Args:
      source: the example; its video is a file, the bytes of one, or frames of any size.
      settings: which frames are taken.
      transform: of a frame (H, W, 3) uint8.
      rng: in training, for the sampling of frames.

    Raises:
      VideoError: if it cannot be read.
    """
    assert source.video is not None and not isinstance(source.stored, StoredFrames)
    if isinstance(source.stored, GivenFrames):
        frames = np.stack([transform(frame) for frame in source.stored.frames])
        return Video(frames, source.stored.timestamps)
    if source.stored is None:
        with _here(source.video) as path:
            return _read_video(source, path, settings, transform, rng)
    with source.stored.opened() as path:
        try:
            return _read_video(source, path, settings, transform, rng)
        except VideoError as error:  # it names the file that stands in for the clip's
            named = str(error).replace(str(path), source.stored.name)
            raise VideoError(named) from error


def _read_picture(path: Path | EmbeddedPicture) -> np.ndarray:
    if isinstance(path, EmbeddedPicture):
        return load_image(path)
    with _here(path) as here:
        return load_image(here)


@contextlib.contextmanager
def _here(path: Path) -> Iterator[Path]:
    """Yields the path of a file, of one in a bucket that of a copy; errors name the file itself.

    Raises:
      VideoError: if it is no file, or can't be fetched.
    """
    if not is_bucket(path):
        yield path
        return
    from stts_jax.buckets.local_cache import local_cache

    with contextlib.ExitStack() as stack:
        try:
            here = stack.enter_context(local_cache().opened(path))
        except FileNotFoundError as error:
            raise VideoError(f"'{path}' does not exist; check the path") from error
        except BucketError as error:
            raise VideoError(str(error)) from error
        try:
            yield here
        except (VideoError, ImageError) as error:
            raise type(error)(str(error).replace(str(here), str(path))) from error


def _of_frames(stored: StoredFrames, frame_size: int) -> Media:
    """Returns frames that are there; that they were sampled alike is known of the whole set."""
    if stored.frames.shape[1:] != (frame_size, frame_size, 3):
        raise MediaError(
            f"an example has frames of {stored.frames.shape[1:]}, and the model takes "
            f"{frame_size} x {frame_size}; make the shards again with this run's settings"
        )
    video = Video(stored.frames, stored.timestamps, stored.target_fps, stored.augmentation)
    return Media(video=video, video_size=stored.video_size)


def _read_video(
    source: SourceExample,
    path: Path,
    settings: VideoSettings,
    transform: Transform,
    rng: np.random.RandomState | None,
) -> Video:
    """Decodes the video of an example from the file at `path`."""
    return read_sampled(
        path,
        settings.sampler(),
        video_overrides(source),
        rng=rng,
        transform=transform,
        decoder=settings.decoder,
    )


def count_frames(source: SourceExample, settings: VideoSettings) -> int:
    """Frames that `read_media` takes of the video of an example; see `count_sampled`.

    Raises:
      VideoError: if the file cannot be read.
    """
    assert source.video is not None
    overrides = video_overrides(source)
    with _here(source.video) as path:
        return count_sampled(path, settings.sampler(), overrides, decoder=settings.decoder)


def video_overrides(source: SourceExample) -> VideoOverrides:
    """Returns the settings of an example for its own video."""
    overrides = VideoOverrides.from_metadata(source.metadata)
    return overrides if source.clip is None else dataclasses.replace(overrides, clip=source.clip)


@dataclass
class MediaCache:
    """Remembers decoded videos: all of them, or only the last (many ask about the same in a row).

    Sampling that draws at random is not remembered.

    Attributes:
      keep: remember all.
    """

    keep: bool
    _known: dict[Any, Media] = field(default_factory=dict, repr=False)

    def read(
        self,
        source: SourceExample,
        settings: VideoSettings,
        frame_size: int,
        rng: np.random.RandomState | None = None,
    ) -> Media:
        """See `read_media`."""
        random = rng is not None and isinstance(settings.max_fps, tuple)
        decoded = source.video is None or isinstance(source.stored, StoredFrames | GivenFrames)
        if decoded or random or "sampler_overrides" in source.metadata:
            return read_media(source, settings, frame_size, rng)
        key = (source.video, source.clip, settings, frame_size)
        if key not in self._known:
            if not self.keep:
                self._known.clear()
            self._known[key] = read_media(source, settings, frame_size, rng)
        return self._known[key]


@dataclass
class _Squash:
    """Squashes frames as they are decoded, and remembers their width and height."""

    target: int
    size: tuple[int, int] | None = None

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        self.size = (frame.shape[1], frame.shape[0])
        return resize(frame, self.target)
