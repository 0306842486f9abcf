"""The interface of a video decoder, and decoders other than the default, PyAV.

torchcodec and decord2 are optional: they are imported when they are asked for by name.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from stts_jax.buckets.address import path_of
from stts_jax.data.media_file import ffmpeg_name, require_content


class VideoError(ValueError):
    """A file that yields no frames; the message is one sentence that names it."""


class VideoDecoder(Protocol):
    """An open video file.

    Times are seconds on the file's own clock, which may start above 0.

    Attributes:
      begin: time at which the first frame appears.
      end: time at which the last frame disappears.
      frame_count: number of frames.
    """

    begin: float
    end: float
    frame_count: int

    def frames_shown_at(self, seconds: Sequence[float]) -> Iterator[np.ndarray]:
        """The frame on display at each of the rising `seconds`, each (H, W, 3) uint8 RGB, upright.

        A frame that is asked for again may be the same array again.
        """
        ...

    def frames_numbered(self, numbers: Sequence[int]) -> Iterator[np.ndarray]:
        """The frames with the rising `numbers`, in the same form."""
        ...


def require_file(path: str | Path) -> None:
    """Refuse what is not a file with content.

    Raises:
      VideoError: if there is nothing to read at `path`.
    """
    require_content(path_of(path), "a video file", VideoError)


def damaged(path: str | Path, reason: str) -> VideoError:
    """The error of a file that cannot be decoded."""
    return VideoError(f"'{path}' is not a readable video file: {reason}; copy or download it again")


class TorchcodecDecoder:
    """Decodes with torchcodec in exact mode, as the reference's `torchcodec_exact` does."""

    def __init__(self, path: str | Path, decoders: ModuleType) -> None:
        self._decoder = decoders.VideoDecoder(
            ffmpeg_name(path), dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact"
        )
        metadata = self._decoder.metadata
        self.begin: float = metadata.begin_stream_seconds_from_content
        self.end: float = metadata.end_stream_seconds_from_content
        self.frame_count: int = metadata.num_frames

    def frames_shown_at(self, seconds: Sequence[float]) -> Iterator[np.ndarray]:
        """See `VideoDecoder`."""
        for time in seconds:
            yield self._decoder.get_frame_played_at(time).data.numpy()

    def frames_numbered(self, numbers: Sequence[int]) -> Iterator[np.ndarray]:
        """See `VideoDecoder`."""
        for number in numbers:
            yield self._decoder.get_frame_at(number).data.numpy()


class DecordDecoder:
    """Decodes with decord2.

    It takes the end of a frame from its nominal length, so where the frame rate varies its choice
    may be one frame off (recorded so for the reference).
    """

    def __init__(self, path: str | Path, decord: ModuleType) -> None:
        self._reader: Any = decord.VideoReader(ffmpeg_name(path), ctx=decord.cpu(0), num_threads=1)
        self.frame_count = len(self._reader)
        times = np.asarray(self._reader.get_frame_timestamp(list(range(self.frame_count))))
        self._ends = times[:, 1].astype(np.float64)
        self.begin = float(times[0, 0])
        self.end = float(self._ends[-1])

    def frames_shown_at(self, seconds: Sequence[float]) -> Iterator[np.ndarray]:
        """See `VideoDecoder`."""
        numbers = np.searchsorted(self._ends, seconds, side="right")
        return self.frames_numbered(np.minimum(numbers, self.frame_count - 1).tolist())

    def frames_numbered(self, numbers: Sequence[int]) -> Iterator[np.ndarray]:
        """See `VideoDecoder`."""
        for number in numbers:
            yield self._reader[number].asnumpy()


@contextmanager
def open_torchcodec(path: str | Path) -> Iterator[VideoDecoder]:
    """Open a video with torchcodec.

    Raises:
      VideoError: if the package is missing, or the file is not a readable video.
    """
    decoders = _import("torchcodec.decoders", "torchcodec", "torchcodec")
    require_file(path)
    # Bad files raise RuntimeError or ValueError, by version.
    with _naming(path, (RuntimeError, ValueError, IndexError)):
        yield TorchcodecDecoder(path, decoders)


@contextmanager
def open_decord(path: str | Path) -> Iterator[VideoDecoder]:
    """Open a video with decord2.

    Raises:
      VideoError: if the package is missing, or the file is not a readable video.
    """
    decord = _import("decord", "decord2", "decord2")
    require_file(path)
    with _naming(path, (RuntimeError, IndexError)):  # its own error is a RuntimeError
        yield DecordDecoder(path, decord)


def _import(module: str, decoder: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError, OSError) as error:  # also if FFmpeg's libraries are missing
        raise VideoError(
            f"the video decoder '{decoder}' cannot be loaded ({error}); install it with "
            f"`pip install {package}` or use the decoder 'pyav'"
        ) from error


@contextmanager
def _naming(path: str | Path, errors: tuple[type[Exception], ...]) -> Iterator[None]:
    try:
        yield
    except VideoError:
        raise
    except errors as error:
        reason = str(error).strip().splitlines()
        raise damaged(path, reason[0] if reason else type(error).__name__) from error
