"""Samples times, or frame numbers, of a video.

A sampler draws only if a generator is passed, which is so in training; without one it takes the
evaluation's choice. The reference draws from NumPy's global generator; here the same draws, in the
same order, come from the generator that is passed.
Source: olmo/data/video_loader.py (docs/reference.md#frame-sampling).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CANDIDATE_FPS = (0.25, 0.5, 1.0, 2.0, 4.0, 6.0, 8.0, 16.0)
TIME_MODES = ("uniform", "uniform_last_frame", "uniform_last_frame_sample_fps", "fps")
FRAME_MODES = ("uniform", "uniform_last_frame", "uniform_randomized", "fps", "fps_uniform", "debug")
RATE_MODE = "uniform_last_frame_min_"  # followed by `2fps`, `2-4` or `2-6`
RATE_SET_MODE = "uniform_last_frame_max_fps_set_"  # followed by rates joined with `-`
# Share of training draws of `uniform_last_frame_sample_fps` that take the first rate.
FIRST_RATE_SHARE = 0.1
# Share of training draws of `uniform_randomized` that are not shifted.
UNSHIFTED_SHARE = 0.3
SHIFTED = "RE"  # the reference's mark of a shifted draw


class SamplingError(ValueError):
    """Settings that a video cannot be sampled with; the message is one sentence."""


@dataclass(frozen=True)
class Sampled:
    """The choice of a sampler.

    Attributes:
      positions: (n,) float64 seconds, or (n,) int64 frame numbers, never falling.
      target_fps: the rate that was aimed at, None if the choice was even over the video.
      augmentation: `RE` if the choice was shifted at random.
    """

    positions: np.ndarray
    target_fps: float | None = None
    augmentation: str | None = None


def sample_times(duration: float, max_frames: int, fps: float | None) -> np.ndarray:
    """Times at `fps` per second and the last, or evenly if those are too many.

    Source: the reference's `uniform_last_frame` rule (docs/reference.md#frame-sampling). Where
    rounding would put one more
    time just before the end, the reference stops; here that time is left out.

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
    return np.append(times[: max_frames - 1], duration)


@dataclass(frozen=True)
class TimeSampler:
    """Samples by time.

    There is no default mode: the reference's is a tuple by mistake, and never works.

    Attributes:
      max_frames: upper bound of the number of frames, M.
      frame_sample_mode: for a video of D seconds,
        `uniform`: M times from 0, evenly, without D;
        `uniform_last_frame`: see `sample_times`, with `max_fps` as the rate; of several rates
          training draws one, evaluation takes the first;
        `uniform_last_frame_sample_fps`: the same with a rate drawn between the two of `max_fps`;
          evaluation takes the first;
        `fps`: at the highest of the candidates that spans the video with M frames, else the first.
      candidate_sampling_fps: for `fps`, rising.
      max_fps: rate or rates, None for always even.
    """

    max_frames: int
    frame_sample_mode: str
    candidate_sampling_fps: tuple[float, ...] = CANDIDATE_FPS
    max_fps: float | tuple[float | None, ...] | None = None

    def __post_init__(self) -> None:
        mode = self.frame_sample_mode
        _require_mode(mode, mode in TIME_MODES, "by time", TIME_MODES)
        _require_frames(self.max_frames)
        _keep_rates(self, "candidate_sampling_fps")
        if isinstance(self.max_fps, Sequence):
            _keep_rates(self, "max_fps")
        else:
            _require_rate("max_fps", self.max_fps)
        if mode == "uniform" and self.max_fps is not None:
            raise SamplingError(
                f"max_fps is {self.max_fps}, but mode 'uniform' takes the same number of frames of "
                "every video; use mode 'uniform_last_frame' or leave max_fps out"
            )
        two_rates = (
            isinstance(self.max_fps, tuple) and len(self.max_fps) == 2 and None not in self.max_fps
        )
        if mode == "uniform_last_frame_sample_fps" and not two_rates:
            raise SamplingError(
                f"max_fps is {self.max_fps}, but mode '{mode}' draws a rate between two; give "
                "the lowest and the highest"
            )

    def sample(self, duration: float, rng: np.random.RandomState | None = None) -> Sampled:
        """Times of a video or clip.

        Args:
          duration: D, seconds, above 0.
          rng: in training.

        Returns:
          Seconds from 0 to D.
        """
        if self.frame_sample_mode == "uniform":
            return Sampled(np.linspace(0.0, duration, self.max_frames, endpoint=False))
        if self.frame_sample_mode == "fps":
            fps = self._spanning_fps(duration)
            times = np.arange(0, self.max_frames) / fps
            return Sampled(times[times < duration], fps)
        return Sampled(sample_times(duration, self.max_frames, self._rate(rng)))

    def _rate(self, rng: np.random.RandomState | None) -> float | None:
        if not isinstance(self.max_fps, tuple):
            return self.max_fps
        if rng is None or len(self.max_fps) == 1:
            return self.max_fps[0]
        if self.frame_sample_mode == "uniform_last_frame":
            return self.max_fps[rng.randint(len(self.max_fps))]
        low, high = self.max_fps
        assert low is not None and high is not None  # see `__post_init__`
        return low if rng.random_sample() < FIRST_RATE_SHARE else rng.uniform(low, high)

    def _spanning_fps(self, duration: float) -> float:
        chosen = self.candidate_sampling_fps[0]
        for fps in self.candidate_sampling_fps[1:]:
            if self.max_frames / fps < duration:
                break
            chosen = fps
        return chosen


@dataclass(frozen=True)
class FrameSampler:
    """Samples by frame number.

    Attributes:
      max_frames: upper bound of the number of frames, M.
      frame_sample_mode: for N frames,
        `uniform`: evenly, from 0;
        `uniform_last_frame`: evenly with the first and the last, or as the next if `min_fps` is
          set;
        `uniform_last_frame_min_Xfps`: at X frames per second and the last frame, or evenly if
          those are too many; `..._min_2-4`, `..._min_2-6` and
          `uniform_last_frame_max_fps_set_A-B-...` draw the rate in training, and take the first
          in evaluation;
        `uniform_randomized`: every N//M-th, in training mostly shifted;
        `fps`: at the densest candidate rate that spans the video, else the start of the video at
          the first; `fps_uniform`: the same, else evenly;
        `debug`: evenly, a random number of frames, below min(M, N); always draws.
      candidate_sampling_fps: for `fps` and `fps_uniform`, rising.
      min_fps: see `uniform_last_frame`.
    """

    max_frames: int
    frame_sample_mode: str
    candidate_sampling_fps: tuple[float, ...] = CANDIDATE_FPS
    min_fps: float | None = None

    def __post_init__(self) -> None:
        mode = self.frame_sample_mode
        known = mode in FRAME_MODES or _rates_of(mode) is not None
        shown = (*FRAME_MODES, f"{RATE_MODE}2fps", f"{RATE_SET_MODE}2-4")
        _require_mode(mode, known, "by frame number", shown)
        _require_frames(self.max_frames)
        _keep_rates(self, "candidate_sampling_fps")
        _require_rate("min_fps", self.min_fps)

    def sample(
        self, video_fps: float, frames: int, rng: np.random.RandomState | None = None
    ) -> Sampled:
        """Frames of a video or clip.

        Args:
          video_fps: its frames per second.
          frames: N, above 0.
          rng: in training; `debug` needs it always.

        Returns:
          Frame numbers below N.

        Raises:
          SamplingError: if there are no frames, or a rate below 1 gives more than `max_frames`.
        """
        if frames < 1:
            raise SamplingError(f"there are {frames} frames to sample; use a longer clip")
        mode = self.frame_sample_mode
        if mode == "uniform":
            return Sampled(_even(frames, min(self.max_frames, frames)))
        if mode == "debug":
            return Sampled(_even(frames, self._debug_count(frames, rng)))
        if mode == "uniform_randomized":
            return self._randomized(frames, rng)
        if mode.startswith("fps"):
            fps = self.spanning_fps(video_fps, frames)
            if fps is None:
                return Sampled(_even(frames, self.max_frames))
            numbers = np.arange(0, frames, _step(video_fps, fps))
            return Sampled(numbers[: self.max_frames], fps)
        rate = self._rate(rng)
        if rate is None:
            return Sampled(_even_with_last(frames, self.max_frames))
        return self._at_rate(rate, video_fps, frames)

    def spanning_fps(self, video_fps: float, frames: int) -> float | None:
        """The candidate rate that gives most frames, but not more than `max_frames`.

        If even the first gives more: None in mode `fps_uniform`, else the first.
        """
        chosen, most = None, 0
        for fps in self.candidate_sampling_fps:
            count = frames // _step(video_fps, fps)
            if most == 0:
                if self.frame_sample_mode == "fps_uniform" and count > self.max_frames:
                    break
                chosen, most = fps, count
            elif most < count <= self.max_frames:
                chosen, most = fps, count
        return chosen

    def _rate(self, rng: np.random.RandomState | None) -> float | None:
        mode = self.frame_sample_mode
        rates = _rates_of(mode)
        if rates is None:
            return self.min_fps
        if rng is None or (len(rates) == 1 and not mode.startswith(RATE_SET_MODE)):
            return rates[0]
        if mode.startswith(RATE_SET_MODE):
            return float(rng.choice(rates))
        draw = rng.random_sample()
        if len(rates) == 2:
            return rates[0] if draw > 0.5 else rates[1]
        return rates[0] if draw < 0.333 else rates[1] if draw < 0.666 else rates[2]

    def _at_rate(self, rate: float, video_fps: float, frames: int) -> Sampled:
        if frames <= 2:
            return Sampled(np.arange(frames))
        if frames / video_fps > self.max_frames / rate - 1:
            return Sampled(_even_with_last(frames, self.max_frames))
        numbers = np.round(np.arange(0.0, frames - 1, float(video_fps / rate)))
        if numbers[-1] != frames - 1:
            numbers = np.append(numbers, frames - 1)
        if len(numbers) > self.max_frames:  # the rule above allows it for rates below 1
            raise SamplingError(
                f"mode '{self.frame_sample_mode}' gives {len(numbers)} frames, more than "
                f"max_frames={self.max_frames}; raise that or use a rate of 1 or more"
            )
        return Sampled(numbers.astype(np.int64), rate)

    def _randomized(self, frames: int, rng: np.random.RandomState | None) -> Sampled:
        if frames <= self.max_frames:
            return Sampled(np.arange(frames))
        step = frames // self.max_frames
        numbers = np.arange(self.max_frames) * step
        if rng is None or rng.random_sample() <= UNSHIFTED_SHARE:
            return Sampled(numbers)
        rest = frames - step * (self.max_frames - 1)
        numbers[1:] += rng.randint(-(step // 2), rest // 2)
        return Sampled(numbers, augmentation=SHIFTED)

    def _debug_count(self, frames: int, rng: np.random.RandomState | None) -> int:
        most = min(self.max_frames, frames)
        if rng is None or most < 2:
            raise SamplingError(
                f"mode 'debug' draws a number of frames below {most}, so it needs a generator and "
                "two frames at least; use mode 'uniform'"
            )
        return int(rng.randint(1, most))


Sampler = TimeSampler | FrameSampler


def _step(video_fps: float, fps: float) -> int:
    return max(int(video_fps / fps), 1)


def _even(frames: int, count: int) -> np.ndarray:
    return np.linspace(0, frames, count, endpoint=False, dtype=np.int64)


def _even_with_last(frames: int, max_frames: int) -> np.ndarray:
    return np.linspace(0, frames - 1, min(max_frames, frames), endpoint=True, dtype=np.int64)


def _rates_of(mode: str) -> tuple[float, ...] | None:
    """Rates that a mode's name spells out, None if it spells none."""
    if mode in (f"{RATE_MODE}2-4", f"{RATE_MODE}2-6"):
        return (2.0, 4.0) if mode.endswith("4") else (2.0, 4.0, 6.0)
    number = r"\d+(?:\.\d+)?"
    one = re.fullmatch(rf"{RATE_MODE}({number})fps", mode)
    several = re.fullmatch(rf"{RATE_SET_MODE}({number}(?:-{number})*)", mode)
    found = one or several
    rates = tuple(float(text) for text in found.group(1).split("-")) if found else ()
    return rates if rates and min(rates) > 0 else None


def _require_mode(mode: str, known: bool, kind: str, shown: Sequence[str]) -> None:
    if not known:
        raise SamplingError(
            f"frame_sample_mode is '{mode}', which is not a way to sample {kind}; use one of "
            f"{', '.join(shown)}"
        )


def _require_frames(max_frames: int) -> None:
    if max_frames < 1:
        raise SamplingError(f"max_frames is {max_frames}; set it to 1 or more")


def _require_rate(name: str, rate: float | None) -> None:
    if rate is not None and not rate > 0:
        raise SamplingError(f"{name} is {rate}; it is a rate in frames per second, above 0")


def _keep_rates(sampler: TimeSampler | FrameSampler, name: str) -> None:
    """Check the rates of a field and make them a tuple (annotation files give lists)."""
    rates = tuple(getattr(sampler, name))
    if not rates:
        raise SamplingError(f"{name} is empty; give at least one rate")
    for rate in rates:
        _require_rate(name, rate)
    object.__setattr__(sampler, name, rates)
