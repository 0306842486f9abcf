"""The pictures of a video as FFmpeg's decoder gives them, and when each is shown.

For files whose packets don't tell (`video_index`): all is decoded, once for the times and once
more for the pictures that are wanted.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np

from stts_jax.data.video.decoders import VideoError, damaged
from stts_jax.data.video.index import CLOCK_JUMP, FrameIndex, end_of_last, require_whole
from stts_jax.data.video.input import (
    MAX_RATE,
    MIN_RATE,
    VideoInput,
    is_flush,
    require_count,
    require_length,
)

# A time of decoding that falls by more than this (seconds) begins another recording.
RESTART = Fraction(1, 10)
ORDER_ONLY = "avi"
UNKNOWN = np.iinfo(np.int64).min


def index_of_pictures(video: VideoInput) -> FrameIndex:
    """Returns the index of the pictures that the decoder gives.

    The file is at its beginning before, and at its end afterwards. Memory holds times only.

    Raises:
      VideoError: if a picture is damaged, there is none, or a bare stream declares no frame rate.
      av.FFmpegError: if the file can't be read.
    """
    rate = None if video.has_times else _declared_rate(video)
    clock, duration = _Clock(video), 0
    shown, decoded = array("q"), array("q")
    for frame in pictures(video, clock):
        shown.append(UNKNOWN if frame.pts is None else frame.pts)
        decoded.append(UNKNOWN if frame.dts is None else frame.dts)
        duration = frame.duration or duration
        require_count(len(shown), video.path)
    if not shown:
        raise damaged(video.path, "none of its frames can be decoded")
    if rate is not None:
        return _even(len(shown), rate, video)
    times = _best(np.frombuffer(shown, np.int64), np.frombuffer(decoded, np.int64), video)
    step = _usual_step(times) or duration or _nominal_step(video)
    pts = _rising(_filled(times, step), step, int(RESTART / clock.unit))
    # AVI has no durations.
    last = step if video.kind == ORDER_ONLY else duration or step
    end = end_of_last(pts, int(pts[-1]) + last)
    if pts[-1] == times[-1]:  # the last one may go on while packets give no other
        end = max(end, clock.end)
    index = FrameIndex(pts, end, clock.unit)
    require_whole(video, index, min(clock.begin, int(pts[0])))
    return index


def pictures(video: VideoInput, clock: _Clock | None = None) -> Iterator[av.VideoFrame]:
    """Yields the pictures that FFmpeg shows, from the beginning of an open file.

    A recording may begin between key frames; what cannot be decoded before the first one is left
    out, as players do.

    Args:
      video: at its beginning.
      clock: makes the times of packets rise, if times are wanted.

    Raises:
      VideoError: if a picture is damaged.
    """
    beginning = _Beginning(video)
    for packet in video.packets():
        if clock is not None and not is_flush(packet):
            clock.settle(packet)
        for frame in beginning.decode(packet):
            if frame.is_corrupt:
                if beginning.lasts:
                    continue
                raise damaged(video.path, "a frame is damaged")
            beginning.lasts = False
            yield frame


class _Beginning:
    """Decodes, and tolerates errors where a recording begins between key frames.

    Attributes:
      lasts: no picture came yet.
    """

    def __init__(self, video: VideoInput) -> None:
        self.lasts = True
        self._key_came = False
        self._context = video.stream.codec_context
        # Broadcasts and bare streams can begin inside a packet, even one of a key frame.
        self._anywhere = video.times_may_restart or not video.has_times

    def decode(self, packet: av.Packet) -> list[av.VideoFrame]:
        self._key_came = self._key_came or packet.is_keyframe
        tolerated = self.lasts and (self._anywhere or not self._key_came)
        try:
            return packet.decode()
        except av.FFmpegError:
            if not tolerated:
                raise
            self._context.flush_buffers()  # or it may hold the packet, and take no other
            return []


class _Clock:
    """Makes the times of a broadcast's packets go on where its clock jumps, as ffmpeg does.

    Attributes:
      unit: of times, seconds.
      begin: the first time of display.
      end: the last one at which a packet ends.
    """

    def __init__(self, video: VideoInput) -> None:
        self.unit = video.stream.time_base or Fraction(1)
        self.begin, self.end = np.iinfo(np.int64).max, 0
        self._may_jump = video.times_may_restart
        self._step = _nominal_step(video)
        self._offset = 0
        self._last: int | None = None
        self._next = 0

    def settle(self, packet: av.Packet) -> None:
        """Change a packet's times."""
        if packet.dts is not None:
            time = packet.dts + self._offset
            if self._may_jump and self._last is not None and self._jumps(time, self._last):
                self._offset += self._next - time
                time = self._next
            self._last, self._next = time, time + (packet.duration or self._step)
            packet.dts = time
        if packet.pts is not None:
            packet.pts += self._offset
            self.begin = min(self.begin, packet.pts)
            self.end = max(self.end, packet.pts + (packet.duration or 0))

    def _jumps(self, time: int, last: int) -> bool:
        falls = time + RESTART / self.unit < last
        return falls or abs(time - self._next) > CLOCK_JUMP / self.unit


def _best(shown: np.ndarray, decoded: np.ndarray, video: VideoInput) -> np.ndarray:
    """Chooses between pictures' times of display and of decoding, as ffmpeg does.

    Those that fell less often so far are the better ones. In AVI, which knows the order of decoding
    only, times of display are FFmpeg's guess: if they fall at all, they are wrong from the first.
    """
    if video.kind == ORDER_ONLY and (np.diff(shown) <= 0).any():
        return decoded.copy()
    best = np.empty_like(shown)
    faults_of_shown = faults_of_decoded = 0
    last_shown = last_decoded = UNKNOWN
    for number, (pts, dts) in enumerate(zip(shown.tolist(), decoded.tolist(), strict=True)):
        if dts != UNKNOWN:
            faults_of_decoded += dts <= last_decoded
        if pts != UNKNOWN:
            faults_of_shown += pts <= last_shown
        last_decoded = dts if dts != UNKNOWN else max(pts, last_decoded)
        last_shown = pts if pts != UNKNOWN else max(dts, last_shown)
        better = faults_of_shown <= faults_of_decoded or dts == UNKNOWN
        best[number] = pts if better and pts != UNKNOWN else dts
    return best


def _usual_step(times: np.ndarray) -> int:
    """The median time from a picture to the next; 0 if it is unknown."""
    known = times != UNKNOWN
    steps = np.diff(times)[known[1:] & known[:-1]]
    return int(np.median(steps[steps > 0])) if (steps > 0).any() else 0


def _filled(times: np.ndarray, step: int) -> np.ndarray:
    """Times with those that are unknown made up by even steps from their neighbours."""
    times = times.copy()
    known = np.flatnonzero(times != UNKNOWN)
    first = int(known[0]) if len(known) else 0
    start = int(times[first]) if len(known) else 0
    times[: first + 1] = start - step * np.arange(first, -1, -1)
    for number in np.flatnonzero(times == UNKNOWN).tolist():
        times[number] = times[number - 1] + step
    return times


def _rising(times: np.ndarray, step: int, restart: int) -> np.ndarray:
    """Times that never fall: where they fall by more than `restart`, they go on from there."""
    falls = np.flatnonzero(np.diff(times) < -restart) + 1
    shifts = np.zeros_like(times)
    shifts[falls] = times[falls - 1] - times[falls] + step
    return np.maximum.accumulate(times + np.cumsum(shifts))


def _even(count: int, rate: Fraction, video: VideoInput) -> FrameIndex:
    """Frames of a bare stream, one after another."""
    index = FrameIndex(np.arange(count), count, 1 / rate)
    require_length(float(index.seconds(count)), video.path)
    return index


def _declared_rate(video: VideoInput) -> Fraction:
    rate = video.stream.codec_context.framerate
    if not rate or not MIN_RATE <= rate <= MAX_RATE:
        says = f"declares {float(rate):g} frames a second" if rate else "declares no frame rate"
        raise VideoError(
            f"'{video.path}' is a bare stream of {video.codec} that {says}; "
            "make a video of it, for example by `ffmpeg -framerate 25 -i IN OUT.mp4`, with the "
            "rate that is right"
        )
    return rate


def _nominal_step(video: VideoInput) -> int:
    """Returns the duration of a frame whose packets give none, in units of time."""
    rate = video.stream.average_rate or video.stream.guessed_rate or Fraction(25)
    return max(1, round(1 / (rate * (video.stream.time_base or Fraction(1)))))
