"""Changed videos and pictures."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path
from random import Random

import av
import numpy as np
import PIL.Image
from video_reading import read_video

from fuzz.changes import change_bytes, change_file
from fuzz.registry import Note, target
from stts_jax.data.bad_examples import READING_ERRORS
from stts_jax.data.images.image import load_image
from stts_jax.data.video.reading import probe

# Containers and codecs that are read in different ways.
VIDEOS = (("mp4", "libx264"), ("mkv", "libvpx-vp9"), ("avi", "mpeg4"), ("mpegts", "mpeg2video"))
PICTURES = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP")
SIDE, FRAMES = 48, 12


@cache
def _pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (FRAMES, SIDE, SIDE, 3), np.uint8)


@cache
def _video(container: str, codec: str) -> bytes:
    held = io.BytesIO()
    with av.open(held, "w", format={"mkv": "matroska"}.get(container, container)) as output:
        stream = output.add_stream(codec, rate=25)
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        for pixels in _pixels():
            output.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        output.mux(stream.encode())
    return held.getvalue()


@cache
def _picture(kind: str) -> bytes:
    held = io.BytesIO()
    PIL.Image.fromarray(_pixels()[0]).save(held, kind)
    return held.getvalue()


def _changed(path: Path, content: bytes, rng: Random, note: Note) -> None:
    path.write_bytes(content)
    if rng.random() < 0.1:
        note(change_file(path, rng))
        return
    for _ in range(rng.choice((1, 1, 3))):
        note(change_bytes(path, rng))


@target("bytes of a video", READING_ERRORS, 60)
def changed_video(folder: Path, rng: Random, note: Note) -> None:
    container, codec = rng.choice(VIDEOS)
    path = folder / f"video.{container}"
    _changed(path, _video(container, codec), rng, note)
    probe(path)
    read_video(path, 4, 10.0)


@target("bytes of a picture", READING_ERRORS, 60)
def changed_picture(folder: Path, rng: Random, note: Note) -> None:
    kind = rng.choice(PICTURES)
    path = folder / f"picture.{kind.lower()}"
    _changed(path, _picture(kind), rng, note)
    load_image(path)
