"""Frames of a video file, sampled by time.

A file is read in two passes: the first looks at packet times only (cheap, exact also where the
frame rate varies), the second decodes forward from one key frame to the next that is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter

# A seek costs about as much as decoding a few frames, so shorter gaps are decoded through.
SEEK_GAP_FRAMES = 32
# A file that ends this much (seconds and share) before the length it declares was cut off.
TRUNCATION_SECONDS = 0.5
TRUNCATION_SHARE = 0.05


class VideoError(ValueError):
    """A file that yields no frames; the message is one sentence that names it."""


@dataclass(frozen=True)
class Video:
    """Sampled frames.

    Attributes:
      frames: (n, H, W, 3) uint8 RGB, upright.
      timestamps: (n,) float64, seconds from the start of the video, as they were asked for. Double
        precision because they are printed into the prompt, where 0.15 must round as it does there.
    """

    frames: np.ndarray
    timestamps: np.ndarray


@dataclass(frozen=True)
class VideoInfo:
    """What `probe` finds: seconds, number of frames, pixels as they are stored."""

    duration: float
    frames: int
    width: int
    height: int


def sample_times(duration: float, max_frames: int, fps: float | None) -> np.ndarray:
    """Times at which frames are taken: `fps` per second and the last, or evenly if too many.

    Source: the reference's `uniform_last_frame` rule (DATA 3.2).

    Args:
      duration: seconds.
      max_frames: upper bound of the number of frames.
      fps: sampling rate, None for always even.

    Returns:
      (n,) float64 seconds, 1 <= n <= max_frames, the last one is `duration` if n > 1.
    """
    if fps is None or (max_frames - 1) / fps < duration:
        return np.linspace(0.0, duration, max_frames, endpoint=True)
    times = np.arange(0.0, duration, 1.0 / fps)
    return np.concatenate([times, [duration]])[:max_frames]


def probe(path: str | Path) -> VideoInfo:
    """Length and size of a video without decoding it.

    Raises:
      VideoError: if it is no readable video.
    """
    with _open(path) as (container, stream):
        index = _scan(container, stream, path)
        context = stream.codec_context
        return VideoInfo(index.duration, len(index.pts), context.width, context.height)


def read_video(
    path: str | Path,
    max_frames: int,
    fps: float | None,
    *,
    transform: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Video:
    """Decode the frames on display at `sample_times`.

    Args:
      path: a file.
      max_frames: frames at most.
      fps: frames per second where the video is short enough.
      transform: applied to each frame (H, W, 3) uint8 as it is decoded, so that only the result
        is kept in memory.

    Raises:
      VideoError: if the file is missing, empty, cut off, damaged, or has no pictures.
    """
    with _open(path) as (container, stream):
        index = _scan(container, stream, path)
        times = sample_times(index.duration, max_frames, fps)
        wanted = index.displayed_at(times)
        frames: dict[int, np.ndarray] = {}
        converter = VideoReformatter()  # one for all frames: to set it up takes longer than to use
        for pts, frame in _decode(container, stream, index, np.unique(wanted)):
            if frame.is_corrupt:
                raise _damaged(path, "a frame is damaged")
            image = converter.reformat(frame, format="rgb24", threads=1).to_ndarray()
            image = _upright(image, frame.rotation)
            frames[pts] = transform(image) if transform else image
    missing = [pts for pts in wanted.tolist() if pts not in frames]
    if missing:
        at = float(missing[0] * index.time_base) - index.begin
        raise _damaged(path, f"its frame at {at:.2f} s cannot be decoded")
    return Video(np.stack([frames[pts] for pts in wanted.tolist()]), times)


# ------------------------------------------------------------------------------------- opening


@contextmanager
def _open(
    path: str | Path,
) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    _require_file(Path(path))
    try:
        with av.open(str(path)) as container:
            name = container.format.name
            # Text files pass as terminal art, pictures as one-frame videos.
            if name == "tty" or name.startswith("image2") or name.endswith("_pipe"):
                raise VideoError(f"'{path}' is no video ({name}); use a video file such as mp4")
            streams = [s for s in container.streams.video if not _is_cover(s)]
            if not streams:
                raise VideoError(f"'{path}' has no pictures, only sound; use a file with video")
            streams[0].thread_type = "NONE"  # worker processes share the cores
            yield container, streams[0]
    except (av.FFmpegError, UnicodeDecodeError) as error:
        raise _damaged(path, str(error)) from error


def _require_file(path: Path) -> None:
    if path.is_dir():
        raise VideoError(f"'{path}' is a folder; give the path of a video file")
    if not path.is_file():
        raise VideoError(f"'{path}' does not exist; check the path")
    if path.stat().st_size == 0:
        raise VideoError(f"'{path}' is empty; copy or download it again")


def _is_cover(stream: av.VideoStream) -> bool:
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def _damaged(path: str | Path, reason: str) -> VideoError:
    return VideoError(f"'{path}' is no readable video: {reason}; copy or download it again")


# ------------------------------------------------------------------------- finding and decoding


@dataclass(frozen=True)
class _Index:
    """Display times of all frames in units of `time_base`; `keys` are those of key frames."""

    pts: np.ndarray
    keys: np.ndarray
    end_pts: int
    time_base: Fraction

    @property
    def begin(self) -> float:
        return float(int(self.pts[0]) * self.time_base)

    @property
    def duration(self) -> float:
        return float((self.end_pts - int(self.pts[0])) * self.time_base)

    def displayed_at(self, times: np.ndarray) -> np.ndarray:
        """Time stamp of the frame on display at each of `times` (seconds from the start)."""
        # Kept off the very ends like the reference, where the end itself shows nothing.
        inside = np.clip(times, 1e-6, max(self.duration - 1e-6, 1e-6))
        # Multiplied before dividing, so that a time that is exactly a frame's start finds it.
        starts = (self.pts - self.pts[0]) * self.time_base.numerator / self.time_base.denominator
        position = np.searchsorted(starts, inside, side="right") - 1
        return self.pts[position]


def _scan(
    container: av.container.InputContainer, stream: av.VideoStream, path: str | Path
) -> _Index:
    pts, keys, end = [], [], 0
    for packet in container.demux(stream):
        time = packet.pts if packet.pts is not None else packet.dts
        if time is None or packet.is_discard:
            continue
        pts.append(time)
        end = max(end, time + (packet.duration or 0))
        if packet.is_keyframe:
            keys.append(time)
    if not pts:
        raise _damaged(path, "it holds no frames")
    times = np.unique(pts)
    if end <= times[-1]:  # a container without durations: the last frame lasts as the mean one
        end = int(times[-1] + max(1, (times[-1] - times[0]) // max(len(times) - 1, 1)))
    index = _Index(times, np.unique(keys), end, stream.time_base or Fraction(1, 1))
    declared = _declared_seconds(container, stream)
    if declared - index.duration > max(TRUNCATION_SECONDS, TRUNCATION_SHARE * declared):
        raise _damaged(path, f"it ends after {index.duration:.1f} of {declared:.1f} s")
    return index


def _declared_seconds(container: av.container.InputContainer, stream: av.VideoStream) -> float:
    """Length by the header, 0 if it doesn't tell; that of a whole file may be its sound's."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    alone = len(container.streams) == 1
    return (container.duration or 0) / av.time_base if alone else 0.0


def _decode(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    index: _Index,
    wanted: np.ndarray,
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Yield the frames with the (sorted) time stamps `wanted`, forward, seeking across gaps."""
    position: int | None = None  # time stamp of the last frame decoded
    frames: Iterator[av.VideoFrame] = iter(())
    for target in wanted.tolist():
        start = _seek_to(index, position, target)
        if start is not None:
            container.seek(start, stream=stream, backward=True)
            frames = container.decode(stream)
        for frame in frames:
            position = frame.pts if frame.pts is not None else frame.dts
            if position is not None and position >= target:
                break
        if position == target:
            yield target, frame


def _seek_to(index: _Index, position: int | None, target: int) -> int | None:
    """The key frame to go to for `target`, None to decode on from `position`."""
    before = index.keys[index.keys <= target]
    key = int(before[-1]) if len(before) else int(index.pts[0])
    if position is None:
        return key
    gap = np.count_nonzero((index.pts > position) & (index.pts < key))
    return key if gap > SEEK_GAP_FRAMES else None


def _upright(image: np.ndarray, degrees: int) -> np.ndarray:
    """Undo the camera's rotation, given in degrees counter-clockwise, (H, W, 3)."""
    turns = round(degrees / 90) % 4
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image
