"""Decoding with PyAV.

A file is read in two passes: the first finds when each frame is shown, from the packets where they
tell (cheap, exact also where the frame rate varies) and by decoding otherwise; the second decodes
what is wanted, past gaps that hold a whole group of pictures.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Protocol

import av
import numpy as np
from av.video.frame import PictureType
from av.video.reformatter import VideoReformatter

from stts_jax.data.video.decoders import damaged
from stts_jax.data.video.index import FrameIndex, PacketIndex, index_of_packets
from stts_jax.data.video.input import VideoInput
from stts_jax.data.video.orientation import upright
from stts_jax.data.video.pictures import index_of_pictures, pictures

PREDICTED = (PictureType.P, PictureType.B)  # frames that are made from others


class FrameReader(Protocol):
    """Decodes the frames of a video by their number."""

    def want(self, numbers: Sequence[int]) -> None:
        """Say which numbers will be asked for, rising."""
        ...

    def frame(self, number: int) -> av.VideoFrame | None:
        """Returns a frame; None if the decoder doesn't give it."""
        ...


class PyAvDecoder:
    """The `VideoDecoder` of an open file.

    Attributes:
      width: of a frame as it is stored, pixels.
      height: of the same.
    """

    def __init__(self, video: VideoInput) -> None:
        self._video = video
        self._index, self._reader = _indexed(video)
        self.begin = float(self._index.seconds(int(self._index.pts[0])))
        self.end = float(self._index.seconds(self._index.end_pts))
        self.frame_count = len(self._index.pts)
        context = video.stream.codec_context
        self.width, self.height = context.width, context.height
        self._converter = VideoReformatter()  # to set one up takes longer than to use it

    @property
    def was_decoded(self) -> bool:
        """Whether the packets didn't tell what is shown, so that all was decoded to find out."""
        return isinstance(self._reader, InOrder)

    def frames_shown_at(self, seconds: Sequence[float]) -> Iterator[np.ndarray]:
        """See `VideoDecoder`."""
        return self.frames_numbered(self._index.shown_at(seconds).tolist())

    def frames_numbered(self, numbers: Sequence[int]) -> Iterator[np.ndarray]:
        """See `VideoDecoder`."""
        last: int | None = None
        image: np.ndarray | None = None
        self._reader.want(numbers)
        for position, number in enumerate(numbers):
            if number != last:
                frame = self._reader.frame(number)
                if frame is None and not self.was_decoded:
                    yield from self._as_shown(numbers[position:])
                    return
                if frame is None:
                    at = self._index.seconds(int(self._index.pts[number])) - self.begin
                    raise damaged(self._video.path, f"its frame at {at:.2f} s cannot be decoded")
                last, image = number, self._image(frame)
            assert image is not None
            yield image

    def _as_shown(self, numbers: Sequence[int]) -> Iterator[np.ndarray]:
        """Frames by what is shown at the times of packets, one of which gave no picture.

        Length and number of frames stay, since times were chosen by them.
        """
        times = self._index.seconds(self._index.pts[np.asarray(numbers)])
        self._video.rewind()
        self._index = index_of_pictures(self._video)
        self._reader = InOrder(self._video)
        return self.frames_numbered(self._index.shown_at(np.asarray(times)).tolist())

    def _image(self, frame: av.VideoFrame) -> np.ndarray:
        image = self._converter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        return upright(image, frame)


class InOrder:
    """The `FrameReader` that decodes every picture from the first on."""

    def __init__(self, video: VideoInput) -> None:
        self._video = video
        self._number = -1
        self._pictures: Iterator[av.VideoFrame] | None = None
        self._frame: av.VideoFrame | None = None

    def want(self, numbers: Sequence[int]) -> None:
        """See `FrameReader`."""

    def frame(self, number: int) -> av.VideoFrame | None:
        """See `FrameReader`."""
        if self._pictures is None or number < self._number:
            self._video.rewind()
            self._number, self._pictures = -1, pictures(self._video)
        while self._number < number:
            self._frame = next(self._pictures, None)
            if self._frame is None:
                return None
            self._number += 1
        return self._frame


class Seeking:
    """The `FrameReader` that seeks by the times of packets and skips what isn't needed."""

    def __init__(self, video: VideoInput, index: PacketIndex) -> None:
        self._video, self._index = video, index
        self._wanted: frozenset[int] = frozenset()
        self._frames: Iterator[tuple[int, av.VideoFrame]] = iter(())
        self._position: int | None = None  # number of the last frame decoded
        self._can_seek = True

    def want(self, numbers: Sequence[int]) -> None:
        """See `FrameReader`."""
        self._wanted = frozenset(numbers)

    def frame(self, number: int) -> av.VideoFrame | None:
        """See `FrameReader`."""
        key = self._seek_target(number)
        if key is not None:
            self._seek(key)
        frame = self._decode_to(number)
        if frame is None and key:  # in this file, key frames cannot be started from
            self._can_seek = False
            self._seek(0)
            frame = self._decode_to(number)
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
        index, video = self._index, self._video
        seek_time = index.seek_times[np.searchsorted(index.keys, key)] if len(index.keys) else 0
        first = min(int(index.pts[0]), int(index.seek_times.min(initial=0)))
        # Containers differ in the time they go by, and some land after it.
        for time in (int(index.pts[key]), int(seek_time), first):
            video.container.seek(time, stream=video.stream, backward=True)
            packets = video.packets()
            packet = next(packets)
            landed = index.number_at(packet.pts)
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
        for number, frame in self._decode_from(packets, key):
            if number < key:
                continue
            if not started and key > 0 and (number > key or frame.pict_type in PREDICTED):
                return  # no whole picture, the frames that follow repair it bit by bit
            started = True
            if frame.is_corrupt:
                raise damaged(self._video.path, "a frame is damaged")
            yield number, frame

    def _decode_from(
        self, packets: Iterable[av.Packet], key: int
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        index, context = self._index, self._video.stream.codec_context
        for packet in packets:
            number = index.number_at(packet.pts)
            needed = number is None or number == key or number in self._wanted
            context.skip_frame = "DEFAULT" if needed else "NONREF"
            for frame in packet.decode():
                number = index.number_at(frame.pts)
                if number is not None:
                    yield number, frame

    def _decode_to(self, number: int) -> av.VideoFrame | None:
        """Decode on to a frame; None if it doesn't come."""
        for position, frame in self._frames:
            self._position = position
            if position >= number:
                return frame if position == number else None
        return None


def _indexed(video: VideoInput) -> tuple[FrameIndex, FrameReader]:
    """Returns the times of the frames, and a reader for them."""
    index = index_of_packets(video)
    if index is not None:
        return index, Seeking(video, index)
    video.rewind()
    return index_of_pictures(video), InOrder(video)


@contextmanager
def open_pyav(path: str | Path) -> Iterator[PyAvDecoder]:
    """Open a video.

    Raises:
      VideoError: if the file is missing, empty, cut off, damaged, too large, or has no pictures.
    """
    try:
        with closing(VideoInput(path)) as video:
            yield PyAvDecoder(video)
    except av.FFmpegError as error:
        raise damaged(path, error.strerror or str(error)) from error
    except UnicodeDecodeError as error:  # names of streams
        raise damaged(path, str(error)) from error
