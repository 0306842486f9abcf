"""Settings of frames and tokens of videos: one frozen dataclass, checked where it is built."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from stts_jax.config import ConfigError
from stts_jax.config.data import NUMBERED_SUBTITLES, SUBTITLES
from stts_jax.data.video.frame_sampling import (
    CANDIDATE_FPS,
    FrameSampler,
    Sampler,
    SamplingError,
    TimeSampler,
)
from stts_jax.data.video.reading import DECODERS

FrameTokens = Literal["video", "frame"]
TimeMode = Literal["per-frame-compact", "per-frame", "numbered-frames", "none"]


@dataclass(frozen=True)
class VideoSettings:
    """Settings of videos; the defaults are those of the STTS run.

    The names of modes are the reference's. How many patches make a token is the model's matter.

    Attributes:
      max_frames: sampled from a video at most.
      time_sampling: sample by time (`TimeSampler`), not by frame number (`FrameSampler`).
      frame_sample_mode: see these two.
      max_fps: see `TimeSampler`. By frame number it has no effect: the reference passes it as
        the wrong argument, and that is recorded.
      candidate_sampling_fps: see these two.
      frame_tokens: position of `<frame_start>` and `<frame_end>`: `video`, once around all frames
        with their times, or `frame`, around the patches of every frame, after its time.
      use_frame_special_tokens: otherwise `<im_start>` and `<im_end>` are used.
      time_mode: text before the patches of a frame: `per-frame-compact` the seconds with
        one decimal, `per-frame` the word `time` and two decimals, `numbered-frames` its number
        from 1, or `none`.
      subtitle_mode: which lines of subtitles are shown: `frame_N` those within N seconds of a
        frame, `all`, `ignore` none, or `truncate_K` all but only K tokens.
      max_subtitle_tokens: how many tokens of subtitles are kept, None for all.
      decoder: a name in `video.DECODERS`.
    """

    max_frames: int = 64
    time_sampling: bool = True
    frame_sample_mode: str = "uniform_last_frame"
    max_fps: float | tuple[float | None, ...] | None = 2.0
    candidate_sampling_fps: tuple[float, ...] = CANDIDATE_FPS
    frame_tokens: FrameTokens = "frame"
    use_frame_special_tokens: bool = True
    time_mode: TimeMode = "per-frame-compact"
    subtitle_mode: str = "frame_1"
    max_subtitle_tokens: int | None = None
    decoder: str = "pyav"

    def __post_init__(self) -> None:
        _require_one_of("frame_tokens", self.frame_tokens, get_args(FrameTokens))
        _require_one_of("time_mode", self.time_mode, get_args(TimeMode))
        _require_one_of("decoder", self.decoder, DECODERS)
        mode, limit = self.subtitle_mode, self.max_subtitle_tokens
        if not re.fullmatch(SUBTITLES, mode):
            raise ConfigError(
                f"VideoSettings.subtitle_mode is '{mode}'; use frame_N with seconds, all, ignore, "
                "or truncate_K with tokens"
            )
        if limit is not None and (limit < 0 or mode.startswith("truncate")):
            raise ConfigError(
                f"VideoSettings.max_subtitle_tokens is {limit} with subtitle_mode '{mode}'; use 0 "
                "or more, and only one of max_subtitle_tokens and truncate_K"
            )
        try:
            self.sampler()
        except SamplingError as error:
            raise ConfigError(f"VideoSettings: {error}") from error

    def sampler(self) -> Sampler:
        """Chooses the frames."""
        mode, candidates = self.frame_sample_mode, self.candidate_sampling_fps
        if self.time_sampling:
            return TimeSampler(self.max_frames, mode, candidates, self.max_fps)
        return FrameSampler(self.max_frames, mode, candidates)

    @property
    def subtitle_seconds(self) -> int | None:
        """Largest distance from a frame to a subtitle that is shown, None for any."""
        return self._number_of_subtitle_mode("frame")

    @property
    def subtitle_tokens(self) -> int | None:
        """Largest number of tokens of subtitles, None for any."""
        of_mode = self._number_of_subtitle_mode("truncate")
        return self.max_subtitle_tokens if of_mode is None else of_mode

    def _number_of_subtitle_mode(self, name: str) -> int | None:
        found = re.fullmatch(NUMBERED_SUBTITLES, self.subtitle_mode)
        return int(found.group(2)) if found and found.group(1) == name else None


def _require_one_of(name: str, value: Any, known: Iterable[str]) -> None:
    if value not in known:
        raise ConfigError(f"VideoSettings.{name} is '{value}'; use one of {', '.join(known)}")
