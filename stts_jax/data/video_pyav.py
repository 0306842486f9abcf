"""Decoding with PyAV.

A file is read in two passes: the first looks at packet times only (cheap, exact also where the
frame rate varies), the second decodes forward, past gaps that hold a whole group of pictures.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.frame import PictureType
from av.video.reformatter import VideoReformatter

from stts_jax.data.video_decoders import VideoError, damaged, require_file

# Threads for frames that are cut into slices; worker processes share the cores.
THREADS = 2
# Containers (AVI, MPEG program streams) that leave the times of many frames to be guessed.
GUESSED_TIMES = ("avi", "mpeg")
# What else a file may hold, by FFmpeg's words.
OTHER_STREAMS = {"audio": "sound", "subtitle": "subtitles"}
PREDICTED = (PictureType.P, PictureType.B)  # frames that are made from others
# A file that ends this much (seconds and share) before the length it declares was cut off.
TRUNCATION_SECONDS = 0.5
TRUNCATION_SHARE = 0.05


@dataclass(frozen=True)
class FrameIndex:
    """What the packets tell about the frames, in the order of display; n frames.

    Attributes:
      pts: (n,) int64, when each appears, in units of `time_base`.
      order: (n,) int64, its place in the file, where frames stand in the order of decoding.
      keys: (k,) int64, which of the frames are key frames.
      seek_times: (k,) int64, when those are decoded, in the same units.
      end_pts: when the last frame disappears.
      timed: packets say when they are displayed. Otherwise frames get their times in the order in
        which they come out of the decoder, from the first.
    """

    pts: np.ndarray
    order: np.ndarray
    keys: np.ndarray
    seek_times: np.ndarray
    end_pts: int
    time_base: Fraction
    timed: bool

    def seconds(self, pts: np.ndarray | int) -> np.ndarray | float:
        """Times on the file's clock."""
        # Multiplied before dividing, so that a time that is exactly a frame's start finds it.
        return pts * self.time_base.numerator / self.time_base.denominator

    def shown_at(self, seconds: Sequence[float]) -> np.ndarray:
        """Number of the frame on display at each of `seconds`."""
        return np.searchsorted(self.seconds(self.pts), seconds, side="right").clip(1) - 1

    @property
    def group_length(self) -> float:
        """Frames in a group of pictures, on average."""
        return len(self.pts) / max(len(self.keys), 1)

    def number_at(self, pts: int | None) -> int | None:
        """Number of the frame with that time stamp."""
        if pts is None:
            return None
        number = int(np.searchsorted(self.pts, pts))
        return number if number < len(self.pts) and self.pts[number] == pts else None


class PyAvDecoder:
    """The `VideoDecoder` of an open container."""

    def __init__(
        self,
        container: av.container.InputContainer,
        stream: av.VideoStream,
        index: FrameIndex,
        path: str | Path,
    ) -> None:
        self.begin = float(index.seconds(int(index.pts[0])))
        self.end = float(index.seconds(index.end_pts))
        self.frame_count = len(index.pts)
        self.width, self.height = stream.codec_context.width, stream.codec_context.height
        self._index, self._container, self._stream, self._path = index, container, stream, path
        self._converter = VideoReformatter()  # to set one up takes longer than to use it
        self._wanted: frozenset[int] = frozenset()
        self._frames: Iterator[tuple[int, av.VideoFrame]] = iter(())
        self._position: int | None = None  # number of the last frame decoded
        self._can_seek = index.timed

    def frames_shown_at(self, seconds: Sequence[float]) -> Iterator[np.ndarray]:
        """See `VideoDecoder`."""
        return self.frames_numbered(self._index.shown_at(seconds).tolist())

    def frames_numbered(self, numbers: Sequence[int]) -> Iterator[np.ndarray]:
        """See `VideoDecoder`."""
        last, image = None, None
        self._wanted = frozenset(numbers)
        for number in numbers:
            if number != last:
                last, image = number, self._image(self._frame(number))
            yield image

    def _image(self, frame: av.VideoFrame) -> np.ndarray:
        image = self._converter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        turns = round(frame.rotation / 90) % 4  # the camera's, counter-clockwise
        return np.ascontiguousarray(np.rot90(image, turns)) if turns else image

    def _frame(self, number: int) -> av.VideoFrame:
        key = self._seek_target(number)
        if key is not None:
            self._seek(key)
        frame = self._decode_to(number)
        if frame is None and key:  # in this file, key frames cannot be started from
            self._can_seek = False
            self._seek(0)
            frame = self._decode_to(number)
        if frame is None:
            at = self._index.seconds(int(self._index.pts[number])) - self.begin
            raise damaged(self._path, f"its frame at {at:.2f} s cannot be decoded")
        return frame

    def _seek_target(self, number: int) -> int | None:
        """Number of the key frame to go to for a frame, None to decode on from where we are."""
        keys, position = self._index.keys, self._position
        before = np.searchsorted(keys, number, side="right") - 1
        key = int(keys[before]) if before >= 0 and self._can_seek else 0
        if position is None or number <= position:
            return key
        skips_a_group = number - position > self._index.group_length
        return key if skips_a_group and key > position + 1 else None

    def _seek(self, key: int) -> None:
        """Continue at a key frame, or before it."""
        index = self._index
        seek_time = index.seek_times[np.searchsorted(index.keys, key)] if len(index.keys) else 0
        first = min(int(index.pts[0]), int(index.seek_times.min(initial=0)))
        # Containers differ in the time they go by, and some land behind it.
        for time in (int(index.pts[key]), int(seek_time), first):
            self._container.seek(time, stream=self._stream, backward=True)
            packets = _packets(self._container, self._stream, self._path)
            packet = next(packets)
            landed = index.number_at(_time(packet))
            if landed is not None and index.order[landed] <= index.order[key]:
                break
        self._frames = self._decode(itertools.chain([packet], packets), key)

    def _decode(
        self, packets: Iterable[av.Packet], key: int
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        """Frames and their numbers, without those that are neither wanted nor needed by others.

        Args:
          packets: to decode.
          key: the frame to start from; those before it may lack others that they are made from.
        """
        started = False
        for number, frame in self._decode_from(packets, self._wanted | {key, None}):
            if number < key:
                continue
            if not started and key > 0 and (number > key or frame.pict_type in PREDICTED):
                return  # no whole picture, it is mended bit by bit over the frames that follow
            started = True
            if frame.is_corrupt:
                raise damaged(self._path, "a frame is damaged")
            yield number, frame

    def _decode_from(
        self, packets: Iterable[av.Packet], wanted: frozenset[int | None]
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        index, context = self._index, self._stream.codec_context
        came = itertools.count()
        for packet in packets:
            needed = not index.timed or index.number_at(_time(packet)) in wanted
            context.skip_frame = "DEFAULT" if needed else "NONREF"
            for frame in packet.decode():
                number = index.number_at(_time(frame)) if index.timed else next(came)
                if number is not None:
                    yield number, frame

    def _decode_to(self, number: int) -> av.VideoFrame | None:
        """Decode on to a frame; None if it doesn't come."""
        for position, frame in self._frames:
            self._position = position
            if position >= number:
                return frame if position == number else None
        return None


@contextmanager
def open_pyav(path: str | Path) -> Iterator[PyAvDecoder]:
    """Open a video.

    Raises:
      VideoError: if the file is missing, empty, cut off, damaged, or has no pictures.
    """
    require_file(path)
    try:
        with av.open(str(path)) as container:
            stream = _video_stream(container, path)
            stream.thread_type = "SLICE"  # frame threads decode ahead, frames that nobody wants
            stream.codec_context.thread_count = THREADS
            yield PyAvDecoder(container, stream, _scan(container, stream, path), path)
    except av.FFmpegError as error:
        raise damaged(path, error.strerror or str(error)) from error
    except UnicodeDecodeError as error:  # names of streams
        raise damaged(path, str(error)) from error


def _video_stream(container: av.container.InputContainer, path: str | Path) -> av.VideoStream:
    name = container.format.name
    # Text files pass as terminal art, pictures as one-frame videos.
    if name == "tty" or name.startswith("image2") or name.endswith("_pipe"):
        raise VideoError(f"'{path}' is no video ({name}); use a video file such as mp4")
    cover = av.stream.Disposition.attached_pic
    streams = [s for s in container.streams.video if not s.disposition & cover]
    if not streams:
        only = " and ".join(
            sorted({OTHER_STREAMS.get(s.type, f"{s.type} streams") for s in container.streams})
        )
        what = f"only {only}" if only else "and nothing else"
        raise VideoError(f"'{path}' has no pictures, {what}; use a file with video")
    if streams[0].codec_context is None:
        raise VideoError(f"'{path}' is coded in an unknown way; convert it to H.264")
    return streams[0]


def _scan(
    container: av.container.InputContainer, stream: av.VideoStream, path: str | Path
) -> FrameIndex:
    times, decoded, is_key, end = [], [], [], 0
    timed = container.format.name not in GUESSED_TIMES
    for packet in _packets(container, stream, path):
        time = _time(packet)
        if time is None or packet.is_discard:
            continue
        times.append(time)
        decoded.append(time if packet.dts is None else packet.dts)
        is_key.append(packet.is_keyframe)
        end = max(end, time + (packet.duration or 0))
        timed = timed and packet.pts is not None
    if not times:
        raise damaged(path, "it holds no frames")
    pts, order = np.unique(np.array(times, np.int64), return_index=True)
    keys = np.flatnonzero(np.array(is_key)[order])
    if end <= pts[-1]:  # a container without durations: the last frame lasts as the mean one
        end = int(pts[-1] + max(1, (pts[-1] - pts[0]) // max(len(pts) - 1, 1)))
    seek_times = np.array(decoded, np.int64)[order[keys]]
    time_base = stream.time_base or Fraction(1, 1)
    index = FrameIndex(pts, order, keys, seek_times, end, time_base, timed)
    _require_whole(container, stream, index, path)
    return index


def _packets(
    container: av.container.InputContainer, stream: av.VideoStream, path: str | Path
) -> Iterator[av.Packet]:
    try:
        yield from container.demux(stream)
    except IndexError as error:  # of PyAV, at a stream that begins inside the file
        raise damaged(path, "it has packets of an unknown stream") from error


def _time(unit: av.Packet | av.VideoFrame) -> int | None:
    return unit.dts if unit.pts is None else unit.pts


def _require_whole(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    index: FrameIndex,
    path: str | Path,
) -> None:
    """Refuse a file that ends before the length its header declares."""
    begin = int(index.pts[0])
    if stream.duration and stream.time_base:
        declared = float(stream.duration * stream.time_base)
    else:  # that of the whole file, which may be its sound's, and in some containers begins at 0
        alone = len(container.streams) == 1
        declared = (container.duration or 0) / av.time_base if alone else 0.0
        begin = min(0, begin)
    duration = float((index.end_pts - begin) * index.time_base)
    if declared - duration > max(TRUNCATION_SECONDS, TRUNCATION_SHARE * declared):
        raise damaged(path, f"it ends after {duration:.1f} of {declared:.1f} s")
