"""Videos and pictures as a user gives them: a path, the bytes of a file, or an array."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Sequence, Sized
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from stts_jax.api.errors import UsageError
from stts_jax.api.settings import is_number
from stts_jax.buckets.address import GS, is_address, path_of
from stts_jax.data.embedded import EmbeddedPicture
from stts_jax.data.stored_media import GivenFrames, StoredClip
from stts_jax.quoting import shorten

# A path, the content of a file, or frames (T, H, W, 3) uint8.
VideoLike = str | os.PathLike[str] | bytes | np.ndarray
# A path, the content of a file, a picture (H, W, 3) uint8, or Pillow's.
ImageLike = str | os.PathLike[str] | bytes | np.ndarray | PIL.Image.Image


def video_of(video: Any, fps: float, most: int) -> tuple[Path, StoredClip | GivenFrames | None]:
    """Returns the name of a video and, if it is in memory, its content.

    Args:
      video: see `VideoLike`.
      fps: frames per second of an array.
      most: frames that an array may have.

    Raises:
      UsageError: if it is something else.
    """
    if isinstance(video, str | os.PathLike):
        return _file(video), None
    if isinstance(video, bytes | bytearray | memoryview):
        if not len(video):
            raise UsageError("the video is empty bytes; give the content of a file")
        name = f"video of {len(video)} bytes"
        return Path(name), StoredClip(name, bytes(video))
    frames = _array(video, "a video")
    _require_frames(frames, most)
    times = np.arange(len(frames), dtype=np.float64) / fps
    return Path(f"video of {len(frames)} frames"), GivenFrames(frames, times)


def image_of(image: Any, number: int) -> Path | EmbeddedPicture:
    """Returns a file, or the content of one.

    Args:
      image: see `ImageLike`.
      number: of the picture, from 1.

    Raises:
      UsageError: if it is something else.
    """
    named = f"picture {number}"
    if isinstance(image, str | os.PathLike):
        return _file(image)
    if isinstance(image, bytes | bytearray | memoryview):
        return EmbeddedPicture(named, bytes(image))
    if not isinstance(image, PIL.Image.Image):
        pixels = _array(image, "a picture")
        _require_uint8(pixels, named)
        if pixels.ndim != 3 or pixels.shape[-1] != 3 or not pixels.size:
            raise UsageError(f"{named} has shape {pixels.shape}; give (H, W, 3)")
        image = PIL.Image.fromarray(np.ascontiguousarray(pixels))
    content = io.BytesIO()
    image.save(content, "PNG", compress_level=1)
    return EmbeddedPicture(named, content.getvalue())


def clip_of(clip: Any) -> tuple[float, float] | None:
    """Returns the first and last second that are shown, as a line of own data may have them.

    Raises:
      UsageError: if it is something else than two numbers.
    """
    if clip is None:
        return None
    seconds = tuple(clip) if isinstance(clip, Iterable) else ()
    if len(seconds) != 2 or not all(is_number(second) for second in seconds):
        raise UsageError(
            f"clip is {shorten(clip)}; give the first and the last second, such as (2, 9.5)"
        )
    return float(seconds[0]), float(seconds[1])


def pictures_of(images: Any) -> tuple[Path | EmbeddedPicture, ...]:
    """Returns the files, or the content, of pictures.

    Raises:
      UsageError: if they aren't a list of these.
    """
    if isinstance(images, str | bytes | os.PathLike) or not isinstance(images, Iterable):
        raise UsageError(f"images is {shorten(images)}, which is no list; give one, images=[...]")
    return tuple(image_of(image, number) for number, image in enumerate(images, start=1))


def subtitle_of(subtitle: Any) -> str | None:
    """Returns a text, or the path of a file of subtitles as text.

    Raises:
      UsageError: if it is something else.
    """
    if subtitle is not None and not isinstance(subtitle, str | os.PathLike):
        raise UsageError(
            f"subtitle is {shorten(subtitle)}; give a text, or the path of a .srt or .vtt file"
        )
    return None if subtitle is None else os.fspath(subtitle)


def is_given(value: Any) -> bool:
    """Returns whether an argument that may be left out says something."""
    left_out = value is None or value is False
    return not left_out and not (isinstance(value, Sized) and len(value) == 0)


def is_many(value: Any) -> bool:
    """Returns whether there are several videos, or questions, where one could be."""
    return isinstance(value, list | tuple)


def require_videos(videos: Sequence[Any]) -> None:
    """Refuses a list of frames where videos are expected."""
    if videos and all(isinstance(each, np.ndarray) and each.ndim == 3 for each in videos):
        raise UsageError(
            f"video is a list of {len(videos)} arrays of shape {videos[0].shape}; of frames make "
            "one array, np.stack(frames), and give pictures as images=[...]"
        )


def _file(path: str | os.PathLike[str]) -> Path:
    text = os.fspath(path)
    if is_address(text) and not text.startswith(GS):
        raise UsageError(
            f"{shorten(text)} is an address, and files are read; give the path of one, or its bytes"
        )
    return path_of(path)


def _array(value: Any, what: str) -> np.ndarray:
    if isinstance(value, np.ndarray):
        return value
    if hasattr(value, "__array__"):
        return np.asarray(value)
    raise UsageError(
        f"{what} is {shorten(value)}; give a path, the bytes of a file, or an array of uint8"
    )


def _require_frames(frames: np.ndarray, most: int) -> None:
    shape = frames.shape
    if len(shape) == 4 and shape[1] == 3 != shape[-1]:
        raise UsageError(
            f"the frames have shape {shape}, colours first; give frames.transpose(0, 2, 3, 1)"
        )
    if len(shape) != 4 or shape[-1] != 3:
        raise UsageError(f"the frames have shape {shape}; give (T, H, W, 3)")
    if not frames.size:
        raise UsageError(f"the frames have shape {shape}, which holds no pixel; give at least one")
    _require_uint8(frames, "a video")
    if len(frames) > most:
        step = -(-len(frames) // most)
        raise UsageError(
            f"the array has {len(frames)} frames, and the model takes {most}; give fewer, such as "
            f"frames[::{step}] with fps divided by {step}, or allow more with frames={len(frames)}"
        )


def _require_uint8(pixels: np.ndarray, what: str) -> None:
    if pixels.dtype == np.uint8:
        return
    scaled = "(255 * x).round()" if np.issubdtype(pixels.dtype, np.floating) else "x"
    raise UsageError(
        f"{what} is an array of {pixels.dtype}; give uint8 from 0 to 255, for example "
        f"{scaled}.astype(np.uint8)"
    )
