"""A clip to measure reading with where no data are at hand."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from stts_jax.data.media_file import ffmpeg_name

WIDTH, HEIGHT, FPS = 1280, 720, 30
# Frames between those that stand alone, as hosts of videos commonly have it.
GROUP = 60
_CELL = 8


def made_clip_set(folder: Path, seconds: float) -> Path:
    """Write a clip of 1280 x 720 pixels and 30 frames a second (H.264), and a question about it.

    Coarse noise moves across it.

    Args:
      folder: that exists.
      seconds: its length.

    Returns:
      the JSONL file of one question.
    """
    random = np.random.RandomState(0)
    cells = random.randint(0, 256, (HEIGHT // _CELL + 9, WIDTH // _CELL + 9, 3)).astype(np.uint8)
    noise = np.kron(cells, np.ones((_CELL, _CELL, 1), np.uint8))
    with av.open(ffmpeg_name(folder / "clip.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.gop_size = GROUP
        for number in range(round(seconds * FPS)):
            top, left = number % 60, 2 * number % 60
            image = np.ascontiguousarray(noise[top : top + HEIGHT, left : left + WIDTH])
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    line = {"video": "clip.mp4", "question": "What moves?", "answer": "Noise"}
    (folder / "clip.jsonl").write_text(json.dumps(line) + "\n")
    return folder / "clip.jsonl"
