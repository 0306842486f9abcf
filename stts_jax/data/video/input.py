"""Opening a video file with FFmpeg's libraries, under limits.

A file is read as what it is: no list of other files is followed, no address is asked, and no
picture is decoded that is larger than `MAX_PIXELS`.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av

from stts_jax.data.media_file import ffmpeg_name
from stts_jax.data.video.boxes import samples_named
from stts_jax.data.video.decoders import VideoError, damaged, require_file

# A frame of 8K has 33 million pixels; FFmpeg's own limit is eight times as much as this one.
MAX_PIXELS = 50_000_000
# Longer than any recording (a day at 120 frames a second; eleven days): such time stamps are wrong.
MAX_FRAMES = 10_000_000
MAX_SECONDS = 1_000_000.0
# Declared rates of bare streams that are believed, frames a second.
MIN_RATE, MAX_RATE = Fraction(1, 100), Fraction(1000)
# Threads for frames that are cut into slices; worker processes share the cores.
THREADS = 2
# Kinds of files that name other files or addresses, which FFmpeg would open.
LISTS = ("concat", "dash", "hls", "image2", "imf", "rtp", "rtsp", "sap", "sdp", "vobsub",
         "webm_dash_manifest")  # fmt: skip
# What else a file may hold, by FFmpeg's words.
OTHER_STREAMS = {"audio": "sound", "subtitle": "subtitles"}
# Decoders that go by another name than what they decode.
CODECS = {"libdav1d": "av1", "libaom-av1": "av1", "libvpx": "vp8", "libvpx-vp9": "vp9"}
# FFmpeg's flags of kinds of files: without time stamps; with time stamps that may start again.
NO_TIMES, TIMES_MAY_RESTART = 0x80, 0x200


def _readable_formats() -> str:
    known = {name for names in av.formats_available for name in names.split(",")}
    return ",".join(sorted(known.difference(LISTS)))


OPTIONS = {
    "protocol_whitelist": "file",
    "format_whitelist": _readable_formats(),
    "max_pixels": str(MAX_PIXELS),
}


class VideoInput:
    """An open video file.

    Attributes:
      path: as it was given.
      container: PyAV's.
      stream: its first video stream that is no cover picture.
    """

    container: av.container.InputContainer
    stream: av.VideoStream

    def __init__(self, path: str | Path) -> None:
        """Open a file.

        Raises:
          VideoError: if there is no file, it has no pictures, or they are too large.
          av.FFmpegError: if it cannot be read.
        """
        require_file(path)
        _require_samples(Path(path))
        self.path = path
        self._open()

    def _open(self) -> None:
        try:
            self.container = av.open(ffmpeg_name(self.path), options=OPTIONS)
        except av.ArgumentError as error:
            raise VideoError(
                f"'{self.path}' is not a video file, or is a list of other files (a playlist), "
                "which is not followed; use the video file itself, such as mp4"
            ) from error
        try:
            self.stream = _video_stream(self.container, self.path)
            context = self.stream.codec_context
            _require_size(context.width, context.height, self.path)
            context.options = {"max_pixels": str(MAX_PIXELS)}
            self.stream.thread_type = "SLICE"  # frame threads decode ahead frames that aren't used
            context.thread_count = THREADS
        except BaseException:
            self.container.close()
            raise

    def rewind(self) -> None:
        """Begin at the first packet again, which seeking doesn't do in every kind of file."""
        self.container.close()
        self._open()

    def close(self) -> None:
        """Close the file."""
        self.container.close()

    @property
    def kind(self) -> str:
        """The name of its container, such as `mpegts`."""
        return self.container.format.name

    @property
    def codec(self) -> str:
        """The name of what its pictures are coded in, such as `h264`."""
        return CODECS.get(self.stream.codec_context.name, self.stream.codec_context.name)

    @property
    def has_times(self) -> bool:
        """Whether it is more than a bare stream of coded pictures."""
        return not self.container.format.flags & NO_TIMES

    @property
    def times_may_restart(self) -> bool:
        """Whether it is a container for broadcasts, whose clock may jump."""
        return bool(self.container.format.flags & TIMES_MAY_RESTART)

    def packets(self) -> Iterator[av.Packet]:
        """Packets of the video from where we are; an empty one at the end flushes the decoder."""
        try:
            yield from self.container.demux(self.stream)
        except IndexError as error:  # of PyAV, at a stream that begins inside the file
            raise damaged(self.path, "it has packets of an unknown stream") from error


def is_flush(packet: av.Packet) -> bool:
    """Whether a packet is the empty one at the end of a file."""
    return packet.size == 0 and packet.dts is None and packet.pts is None


def require_count(frames: int, path: str | Path) -> None:
    """Refuse more frames than any recording has.

    Raises:
      VideoError: if there are more.
    """
    if frames > MAX_FRAMES:
        raise VideoError(f"'{path}' has more than {MAX_FRAMES:,} frames; cut it into parts")


def require_length(seconds: float, path: str | Path) -> None:
    """Refuse time stamps that say that a video lasts longer than any recording.

    Raises:
      VideoError: if they do.
    """
    if not seconds <= MAX_SECONDS:
        raise VideoError(
            f"'{path}' lasts {seconds:.0f} s by its time stamps, more than {MAX_SECONDS:,.0f}; "
            "give it others, for example by `ffmpeg -i IN -vf setpts=N/25/TB OUT.mp4`"
        )


def _require_samples(path: Path) -> None:
    """Refuse headers that name more samples than a file has bytes, which would take the memory."""
    try:
        samples = samples_named(path)
    except OSError as error:
        raise damaged(path, error.strerror or str(error)) from error
    if samples > path.stat().st_size:
        raise damaged(path, f"its header names {samples:,} samples, more than it has bytes")


def _require_size(width: int, height: int, path: str | Path) -> None:
    if width * height > MAX_PIXELS:
        raise VideoError(
            f"'{path}' has frames of {width} x {height} pixels, more than {MAX_PIXELS:,}; scale it "
            "down, for example by `ffmpeg -i IN -vf scale=1280:-2 OUT.mp4`"
        )


def _video_stream(container: av.container.InputContainer, path: str | Path) -> av.VideoStream:
    name = container.format.name
    # Text files pass as terminal art, pictures as one-frame videos.
    if name == "tty" or name.endswith("_pipe"):
        what = "a text" if name == "tty" else f"a picture ({name.removesuffix('_pipe')})"
        raise VideoError(f"'{path}' is not a video file but {what}; use one such as mp4")
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
