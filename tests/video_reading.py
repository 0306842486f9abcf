"""Reads frames of a video, evenly to its last frame or at a rate."""

from __future__ import annotations

from pathlib import Path

from stts_jax.data.video.frame_sampling import TimeSampler
from stts_jax.data.video.reading import Transform, Video, read_sampled


def read_video(
    path: str | Path,
    max_frames: int,
    fps: float | None,
    *,
    transform: Transform | None = None,
    decoder: str = "pyav",
) -> Video:
    """Decodes at most `max_frames` frames, `fps` a second if given; see `read_sampled`."""
    sampler = TimeSampler(max_frames, "uniform_last_frame", max_fps=fps)
    return read_sampled(path, sampler, transform=transform, decoder=decoder)
