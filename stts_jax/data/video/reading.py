"""Frames of a video file: which are taken, and reading them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stts_jax.data.video.decoders import VideoDecoder, VideoError, open_decord, open_torchcodec
from stts_jax.data.video.frame_sampling import (
    FrameSampler,
    Sampled,
    Sampler,
    SamplingError,
    TimeSampler,
    sample_times,
)
from stts_jax.data.video.pyav import open_pyav

__all__ = [
    "DECODERS",
    "Video",
    "VideoError",
    "VideoInfo",
    "VideoOverrides",
    "count_sampled",
    "probe",
    "read_sampled",
    "sample_times",
    "sampled_from",
]

Clip = tuple[float, float]
Transform = Callable[[np.ndarray], np.ndarray]

DECODERS: dict[str, Callable[[str | Path], AbstractContextManager[VideoDecoder]]] = {
    "pyav": open_pyav,
    "torchcodec": open_torchcodec,
    "decord2": open_decord,
}
# Times are kept this far (seconds) off the file's ends, where nothing is on display.
END_MARGIN = 1e-6
# Made-up frame times are only right for videos sampled at about this rate
# (docs/reference.md#video-decoding).
SAMPLED_FPS, SAMPLED_FPS_TOLERANCE = 2.0, 0.5


@dataclass(frozen=True)
class Video:
    """Sampled frames.

    Attributes:
      frames: (n, H, W, 3) uint8 RGB, upright.
      timestamps: (n,) float64, seconds from the start of the video or clip, as they were asked
        for. Double precision because they are printed into the prompt, where 0.15 must round as it
        does there.
      target_fps: the rate that sampling aimed at, None if it was even over the video.
      augmentation: see `frame_sampling.Sampled`.
    """

    frames: np.ndarray
    timestamps: np.ndarray
    target_fps: float | None = None
    augmentation: str | None = None


@dataclass(frozen=True)
class VideoInfo:
    """The result of `probe`: seconds, number of frames, stored height and width."""

    duration: float
    frames: int
    width: int
    height: int


@dataclass(frozen=True)
class VideoOverrides:
    """An example's own settings of its video (docs/reference.md#video-decoding).

    Attributes:
      clip: first and last second that are shown; all of it if None. An end after the video's is
        moved to it.
      sampler: fields of the sampler to replace. Those of the other kind of sampler are left out,
        as the reference does: tracking sets give `min_fps` also where sampling is by time.
      fake_timestamp_fps: rate that the frame times pretend; the video must be sampled at about 2.
    """

    clip: Clip | None = None
    sampler: Mapping[str, Any] = field(default_factory=dict)
    fake_timestamp_fps: float | None = None

    def __post_init__(self) -> None:
        known = {f.name for kind in (TimeSampler, FrameSampler) for f in dataclasses.fields(kind)}
        unknown = sorted(set(self.sampler) - known)
        if unknown:
            raise SamplingError(
                f"sampler_overrides has {', '.join(map(repr, unknown))}, which no sampler knows; "
                f"use {', '.join(sorted(known))}"
            )

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> VideoOverrides:
        """Overrides of an example's metadata, in the reference's keys.

        These are `clip_start_time`, `clip_end_time`, `sampler_overrides` and `fake_timestamp_fps`.
        `decode_method` has no effect, as with the reference's `torchcodec_exact`.

        Raises:
          SamplingError: if `sampler_overrides` has unknown keys, or a clip has no end.
        """
        start, end = metadata.get("clip_start_time"), metadata.get("clip_end_time")
        if start is not None and end is None:
            raise SamplingError(
                f"clip_start_time is {start} but there is no clip_end_time; give both or neither"
            )
        return cls(
            clip=None if start is None or end is None else (float(start), float(end)),
            sampler=metadata.get("sampler_overrides") or {},
            fake_timestamp_fps=metadata.get("fake_timestamp_fps"),
        )

    def applied_to(self, sampler: Sampler) -> Sampler:
        """The sampler with its fields replaced."""
        own = {f.name for f in dataclasses.fields(sampler)}
        return dataclasses.replace(sampler, **{k: v for k, v in self.sampler.items() if k in own})


NO_OVERRIDES = VideoOverrides()


def probe(path: str | Path) -> VideoInfo:
    """Length and size of a video; only its first frame is decoded where its packets tell the rest.

    Raises:
      VideoError: if it is not a readable video.
    """
    with open_pyav(path) as video:
        return VideoInfo(video.end - video.begin, video.frame_count, video.width, video.height)


def read_sampled(
    path: str | Path,
    sampler: Sampler,
    overrides: VideoOverrides = NO_OVERRIDES,
    *,
    rng: np.random.RandomState | None = None,
    transform: Transform | None = None,
    decoder: str = "pyav",
) -> Video:
    """Decode the frames that a sampler takes.

    Source: the reference's `torchcodec_exact` (docs/reference.md#video-decoding): a video begins
    with its first frame,
    whatever time that bears, and times are relative to the start of the clip.

    Args:
      path: a file.
      sampler: by time or by frame number.
      overrides: what the example says.
      rng: for the sampler, in training only.
      transform: applied to each frame (H, W, 3) uint8 as it is decoded, so that only the result
        is kept in memory.
      decoder: a name in `DECODERS`.

    Raises:
      VideoError: if the file is missing, empty, cut off, damaged, has no pictures, or does not
        have the clip; or the decoder is not installed.
      SamplingError: if the overrides don't fit the sampler, or there is no such decoder.
    """
    with _opened(path, decoder) as video:
        return sampled_from(video, path, sampler, overrides, rng=rng, transform=transform)


def sampled_from(
    video: VideoDecoder,
    path: str | Path,
    sampler: Sampler,
    overrides: VideoOverrides = NO_OVERRIDES,
    *,
    rng: np.random.RandomState | None = None,
    transform: Transform | None = None,
) -> Video:
    """The frames that a sampler takes of an open video; `path` names it. See `read_sampled`."""
    sampled, images, timestamps = _chosen(video, path, sampler, overrides, rng)
    frames = _collect(images, len(timestamps), transform, path)
    target_fps = sampled.target_fps
    if overrides.fake_timestamp_fps:
        target_fps = overrides.fake_timestamp_fps
        timestamps = _faked(timestamps, target_fps, path)
    return Video(frames, timestamps, target_fps, sampled.augmentation)


def count_sampled(
    path: str | Path,
    sampler: Sampler,
    overrides: VideoOverrides = NO_OVERRIDES,
    *,
    decoder: str = "pyav",
) -> int:
    """Frames that `read_sampled` takes, with the same errors.

    None is decoded where the packets tell what is shown.
    """
    with _opened(path, decoder) as video:
        sampled, *_ = _chosen(video, path, sampler, overrides, None)
        return len(sampled.positions)


# -------------------------------------------------------------------------------------- choosing


def _opened(path: str | Path, decoder: str) -> AbstractContextManager[VideoDecoder]:
    if decoder not in DECODERS:
        raise SamplingError(
            f"the video decoder is '{decoder}', which is unknown; use one of {', '.join(DECODERS)}"
        )
    return DECODERS[decoder](path)


def _chosen(
    video: VideoDecoder,
    path: str | Path,
    sampler: Sampler,
    overrides: VideoOverrides,
    rng: np.random.RandomState | None,
) -> tuple[Sampled, Iterator[np.ndarray], np.ndarray]:
    """Returns the chosen frames, decoded as they are asked for, and their times."""
    sampler = overrides.applied_to(sampler)
    if isinstance(sampler, TimeSampler):
        sampled, images = _by_time(video, sampler, overrides.clip, rng, path)
        return sampled, images, sampled.positions
    sampled, images = _by_number(video, sampler, overrides.clip, rng, path)
    return sampled, images, sampled.positions / _average_fps(video)


def _by_time(
    video: VideoDecoder,
    sampler: TimeSampler,
    clip: Clip | None,
    rng: np.random.RandomState | None,
    path: str | Path,
) -> tuple[Sampled, Iterator[np.ndarray]]:
    duration, offset = video.end - video.begin, video.begin
    if clip is not None:
        _require_clip(clip, duration, path)
        duration = min(clip[1], duration) - clip[0]
        offset += clip[0]
    sampled = sampler.sample(duration, rng)
    latest, earliest = video.end - END_MARGIN, video.begin + END_MARGIN
    seconds = [max(earliest, min(latest, x + offset)) for x in sampled.positions.tolist()]
    return sampled, video.frames_shown_at(seconds)


def _by_number(
    video: VideoDecoder,
    sampler: FrameSampler,
    clip: Clip | None,
    rng: np.random.RandomState | None,
    path: str | Path,
) -> tuple[Sampled, Iterator[np.ndarray]]:
    """Chooses frames as `_by_time` does, from a clip widened to whole frames at the mean rate."""
    fps = _average_fps(video)
    first, stop = 0, video.frame_count
    if clip is not None:
        _require_clip(clip, video.frame_count / fps, path)
        first = math.floor(clip[0] * fps)
        stop = min(math.ceil(clip[1] * fps), stop)
    sampled = sampler.sample(fps, stop - first, rng)
    return sampled, video.frames_numbered((sampled.positions + first).tolist())


def _average_fps(video: VideoDecoder) -> float:
    return video.frame_count / (video.end - video.begin)


def _require_clip(clip: Clip, duration: float, path: str | Path) -> None:
    """Refuse a clip that has no frames.

    The reference stops at a start below 0 by time, but counts it from the end by frame number.
    """
    start, end = clip
    if not 0 <= start < end:
        raise VideoError(
            f"the clip of '{path}' goes from {start:g} to {end:g} s; it must start at 0 or later "
            "and end after its start"
        )
    if start >= duration:
        raise VideoError(
            f"the clip of '{path}' starts at {start:g} s, but the video ends at {duration:g} s; "
            "correct the clip or use the whole video"
        )


# --------------------------------------------------------------------------------------- reading


def _collect(
    images: Iterable[np.ndarray], count: int, transform: Transform | None, path: str | Path
) -> np.ndarray:
    frames: np.ndarray | None = None
    last: np.ndarray | None = None
    for k, image in enumerate(images):
        if image is not last:
            last, result = image, transform(image) if transform else image
        if frames is None:
            frames = np.empty((count, *result.shape), result.dtype)
        if result.shape != frames.shape[1:]:
            raise VideoError(
                f"'{path}' changes its picture size from {frames.shape[1:3]} to "
                f"{result.shape[:2]}; convert it to one size"
            )
        frames[k] = result
    if frames is None:
        raise VideoError(f"no frame of '{path}' was sampled; use a longer clip")
    return frames


def _faked(timestamps: np.ndarray, fps: float, path: str | Path) -> np.ndarray:
    """Times stretched as if sampled at `fps`; the last comes one step after the one before it.

    Source: the reference's VideoLoader. Of fewer than three frames it makes NaN or stops; here
    they are refused.
    """
    steps = np.diff(timestamps[:-1])  # the last step may be shorter than the others
    rate = float(1 / steps.mean()) if len(steps) else math.inf
    if not abs(rate - SAMPLED_FPS) < SAMPLED_FPS_TOLERANCE:
        raise VideoError(
            f"'{path}' has fake_timestamp_fps={fps:g} but was sampled at {rate:.2f} frames per "
            f"second instead of {SAMPLED_FPS:g}; sample it at that rate or leave that out"
        )
    faked = timestamps * (rate / fps)
    faked[-1] = faked[-2] + 1 / fps
    return faked
