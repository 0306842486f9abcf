"""The process that decodes what clients send: `python -m stts_jax.serving.decoding_process BYTES`.

It reads jobs from its standard input and writes frames to its standard output. It may take so many
bytes of memory, writes no files and is killed when a job takes too long (`decoding_pool`).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import PIL.Image

from stts_jax.data.images.file import ImageError, load_image, readable_formats
from stts_jax.data.images.image import resize
from stts_jax.data.video.input import VideoInput
from stts_jax.data.video.reading import read_sampled
from stts_jax.data.video.settings import VideoSettings
from stts_jax.serving.decoding_messages import THUMBNAIL, Job, packed, read_job

_SET_PARENT_DEATH_SIGNAL, _SET_NO_NEW_PRIVILEGES = 1, 38
# What a message for clients never holds: paths, and addresses in memory.
_PRIVATE = re.compile(r"[\\/]\w|0x[0-9a-fA-F]{4}|[<>]")


class TooLargeError(ValueError):
    """A file that is larger than the server takes; the message says what to change."""


def main() -> None:
    """Decodes jobs until there are no more."""
    restrict(int(sys.argv[1]))
    # What libraries print must not come between the messages.
    messages = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while (job := read_job(sys.stdin.buffer)) is not None:
        messages.write(reply_to(job))
        messages.flush()


def restrict(memory: int) -> None:
    """Takes from this process what decoding doesn't need.

    Args:
      memory: bytes that it may take beyond what it has now.
    """
    with contextlib.suppress(OSError, AttributeError):  # where there is no prctl
        libc = ctypes.CDLL(None)
        libc.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
        libc.prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _limit(resource.RLIMIT_AS, used + memory)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_NOFILE, 32)
    # Ctrl-C reaches the whole group; the server says when to end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _limit(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def reply_to(job: Job) -> bytes:
    """Returns the message that answers a job."""
    try:
        return _video(job) if job.kind == "video" else _image(job)
    except TooLargeError as error:
        return _failed("too_large", str(error))
    except Exception as error:  # decoders raise kinds of their own
        if _is_out_of_memory(error):
            return _failed("memory", "")
        return _failed("unreadable", public_text(error, job))


def _is_out_of_memory(error: BaseException | None) -> bool:
    """Returns whether an error, or what it came of, is a lack of memory."""
    while error is not None:
        if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
            return True
        error = error.__cause__ or error.__context__
    return False


def _failed(why: str, text: str) -> bytes:
    return packed({"error": why, "text": text})


def public_text(error: Exception, job: Job) -> str:
    """Returns what a client may read of an error: without paths, and only of our own errors."""
    what = "the picture" if job.kind == "image" else "the video"
    text = str(error).replace(f"'{job.path}'", what).replace(job.path, what)
    own = type(error).__module__.startswith("stts_jax.")
    if not own or _PRIVATE.search(text):
        return ""
    return text


def _video(job: Job) -> bytes:
    _require_small(job)
    settings = VideoSettings(max_frames=job.frames, max_fps=job.fps)
    both = _Both(job.size)
    video = read_sampled(job.path, settings.sampler(), transform=both)
    if float(video.timestamps[-1]) > job.seconds:
        raise _too_long(float(video.timestamps[-1]), job)
    cut = job.size**2 * 3
    count = len(video.frames)
    frames, thumbnails = video.frames[:, :cut], video.frames[:, cut:]
    head: dict[str, Any] = {
        "frames": [count, job.size, job.size, 3],
        "thumbnails": [count, *both.thumbnail],
        "times": video.timestamps.tolist(),
        "target_fps": video.target_fps,
        "size": both.size,
    }
    return packed(head, frames, thumbnails)


class _Both:
    """Squashes a frame for the model, and scales it down for the page, as one row of bytes."""

    def __init__(self, size: int) -> None:
        self.target = size
        self.size: tuple[int, int] = (0, 0)
        self.thumbnail: tuple[int, ...] = ()

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        self.size = (frame.shape[1], frame.shape[0])
        small = _thumbnail(frame)
        self.thumbnail = small.shape
        return np.concatenate([resize(frame, self.target).ravel(), small.ravel()])


def _thumbnail(frame: np.ndarray) -> np.ndarray:
    height, width = frame.shape[:2]
    share = min(1.0, THUMBNAIL / max(height, width))
    size = max(1, round(width * share)), max(1, round(height * share))
    image = PIL.Image.fromarray(frame)
    # Sums before it filters: a 4K frame costs a millisecond.
    return np.asarray(image.resize(size, PIL.Image.Resampling.BOX, reducing_gap=2.0))


def _require_small(job: Job) -> None:
    """Refuses what its header says to be too large."""
    video = VideoInput(job.path)
    try:
        context, duration = video.stream.codec_context, video.container.duration
        width, height = context.width, context.height
    finally:
        video.close()
    _require_pixels(width, height, job, "the video has frames of")
    if duration is not None and duration / av.time_base > job.seconds:
        raise _too_long(duration / av.time_base, job)


def _require_pixels(width: int, height: int, job: Job, what: str) -> None:
    if width * height > job.pixels:
        raise TooLargeError(
            f"{what} {width} x {height} pixels, and this server takes {job.pixels:,}; scale it down"
        )


def _too_long(seconds: float, job: Job) -> TooLargeError:
    return TooLargeError(
        f"the video lasts {seconds:.0f} s, and this server takes {job.seconds:g}; cut it"
    )


def _image(job: Job) -> bytes:
    try:
        with PIL.Image.open(job.path, formats=readable_formats()) as picture:
            width, height = picture.size
    except PIL.UnidentifiedImageError as error:
        raise ImageError("the picture is of an unknown kind; send jpg or png") from error
    _require_pixels(width, height, job, "the picture has")
    pixels = load_image(job.path)
    small = _thumbnail(pixels)
    head = {
        "frames": [1, *pixels.shape],
        "thumbnails": [1, *small.shape],
        "times": [0.0],
        "target_fps": None,
        "size": [pixels.shape[1], pixels.shape[0]],
    }
    return packed(head, pixels, small)


if __name__ == "__main__":
    main()
