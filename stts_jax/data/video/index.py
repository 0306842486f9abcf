"""The frames of a video and when each is shown, as far as its packets tell.

Looking at packets is cheap, but a packet need not be a picture: it may be a field, never be shown,
be left out by the encoder, or lack what it is made from. Where that may be so, nothing is taken
from the packets and `video_pictures` decodes instead.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np

from stts_jax.data.video.decoders import damaged
from stts_jax.data.video.h264 import begins_whole, codes_frames_only
from stts_jax.data.video.hidden import is_shown
from stts_jax.data.video.input import VideoInput, is_flush, require_count, require_length

# Containers (AVI, MPEG program streams) that leave the times of many frames to be guessed.
GUESSED_TIMES = ("avi", "mpeg")
# Codecs of which a packet with content is one picture, of H.264 where no fields are coded.
PICTURE_A_PACKET = {
    "av1", "h264", "hevc", "vvc", "vp8", "vp9", "mjpeg", "prores", "dnxhd", "ffv1", "png",
    "rawvideo",
}  # fmt: skip
PROGRESSIVE = 1  # FFmpeg's number for a first picture that is a frame
# A broadcast's clock that jumps on by so much (seconds) was set again.
CLOCK_JUMP = 10
# A file that ends this much (seconds and share) before the length it declares was cut off.
TRUNCATION_SECONDS = 0.5
TRUNCATION_SHARE = 0.05


@dataclass(frozen=True)
class FrameIndex:
    """The times at which a video's n frames are shown, in the order of display.

    Attributes:
      pts: (n,) int64, when each appears, in units of `time_base`; never falling.
      end_pts: when the last frame disappears.
      time_base: seconds.
    """

    pts: np.ndarray
    end_pts: int
    time_base: Fraction

    def seconds(self, pts: np.ndarray | int) -> np.ndarray | float:
        """Times on the file's clock."""
        # Multiplied before dividing, so that a time that is exactly a frame's start finds it.
        return pts * self.time_base.numerator / self.time_base.denominator

    def shown_at(self, seconds: Sequence[float] | np.ndarray) -> np.ndarray:
        """Number of the frame on display at each of `seconds`."""
        latest = np.asarray(seconds, np.float64)
        if self.pts[0] > 0:
            # The file's clock was added; a time that fell below a frame's start by that is on it.
            latest = latest + 2 * np.spacing(latest)
        return np.searchsorted(self.seconds(self.pts), latest, side="right").clip(1) - 1


@dataclass(frozen=True)
class PacketIndex(FrameIndex):
    """A `FrameIndex` of packets, which frames can be sought with; no two `pts` are equal.

    Attributes:
      order: (n,) int64, each frame's position in the file, where they stand in the order of
        decoding.
      keys: (k,) int64, which of the frames are key frames.
      seek_times: (k,) int64, when those are decoded, in units of `time_base`.
    """

    order: np.ndarray
    keys: np.ndarray
    seek_times: np.ndarray

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


def index_of_packets(video: VideoInput) -> PacketIndex | None:
    """Returns the index of a file's packets; None if they don't tell what is shown when.

    The file is at its beginning before, and at any packet afterwards.

    Raises:
      VideoError: if the file was cut off, or has too many frames.
    """
    if not _may_tell(video):
        return None
    times, decoded, is_key, end = array("q"), array("q"), bytearray(), 0
    first: int | None = None
    last_decoded: int | None = None
    shown = is_shown(video.codec)
    jump = _clock_jump(video)
    for packet in video.packets():
        if is_flush(packet):
            continue
        time, dts = packet.pts, packet.dts
        if time is None or not packet.size or (first is None and not _may_begin(video, packet)):
            return None
        first = time if first is None else first
        if dts is not None:
            if last_decoded is not None and not 0 <= dts - last_decoded <= jump:
                return None
            last_decoded = dts
        if packet.is_discard or not (shown is None or shown(packet)):
            continue
        if time < first:  # it may be made from pictures that aren't there
            return None
        times.append(time)
        decoded.append(time if dts is None else dts)
        is_key.append(packet.is_keyframe)
        end = max(end, time + (packet.duration or 0))
        require_count(len(times), video.path)
    if not times:
        return None
    pts, order = np.unique(np.frombuffer(times, np.int64), return_index=True)
    if len(pts) < len(times):
        return None
    keys = np.flatnonzero(np.frombuffer(is_key, np.uint8)[order])
    seek_times = np.frombuffer(decoded, np.int64)[order[keys]]
    end = end_of_last(pts, end)
    index = PacketIndex(pts, end, video.stream.time_base or Fraction(1), order, keys, seek_times)
    require_whole(video, index, int(pts[0]))
    return index


def end_of_last(pts: np.ndarray, end: int) -> int:
    """Returns when the last frame disappears; without durations it lasts as the mean one."""
    if end > pts[-1]:
        return end
    return int(pts[-1] + max(1, (pts[-1] - pts[0]) // max(len(pts) - 1, 1)))


def require_whole(video: VideoInput, index: FrameIndex, begin: int) -> None:
    """Refuse a file that ends before the length its header declares, or lasts for ever.

    Args:
      video: the file.
      index: of its frames.
      begin: time of its first packet, which the declared length begins with.

    Raises:
      VideoError: if it does.
    """
    container, stream = video.container, video.stream
    require_length(float(index.seconds(index.end_pts - int(index.pts[0]))), video.path)
    if video.times_may_restart or not video.has_times:
        return  # nothing is declared: FFmpeg made its length of the packets
    if stream.duration and stream.time_base:
        declared = float(stream.duration * stream.time_base)
    else:  # that of the whole file, which may be its sound's, and in some containers begins at 0
        alone = len(container.streams) == 1
        declared = (container.duration or 0) / av.time_base if alone else 0.0
        begin = min(0, begin)
    duration = float(index.seconds(index.end_pts - begin))
    if declared - duration > max(TRUNCATION_SECONDS, TRUNCATION_SHARE * declared):
        raise damaged(video.path, f"it ends after {duration:.1f} of {declared:.1f} s")


def _may_tell(video: VideoInput) -> bool:
    if not video.has_times or video.kind in GUESSED_TIMES:
        return False
    context = video.stream.codec_context
    if video.codec == "h264":
        return context.field_order == PROGRESSIVE and codes_frames_only(context.extradata)
    return video.codec in PICTURE_A_PACKET


def _may_begin(video: VideoInput, packet: av.Packet) -> bool:
    """Whether a packet's picture, and those after it, need none before it."""
    if not packet.is_keyframe or video.codec != "h264":
        return packet.is_keyframe
    return begins_whole(bytes(packet), video.stream.codec_context.extradata)


def _clock_jump(video: VideoInput) -> float:
    """Returns the largest step of the decoding time between packets, in units of time."""
    if not video.times_may_restart:
        return float("inf")
    return CLOCK_JUMP / float(video.stream.time_base or 1)
