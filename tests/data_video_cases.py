"""Videos to read."""

from fractions import Fraction

import av
import numpy as np


def write(path, levels, pts=None, *, fps=10, codec="libx264", rotation=0, gop=250, **options):
    """A grey video, one level a frame; `pts` in units of 1/fps make the rate vary."""
    header_first = {"movflags": "faststart"} if path.suffix == ".mp4" else {}
    options = {"crf": "1", "g": str(gop), **options}
    with av.open(str(path), "w", options=header_first) as container:
        stream = container.add_stream(codec, rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        stream.time_base = Fraction(1, fps)
        stream.codec_context.time_base = Fraction(1, fps)
        if rotation:
            stream.set_display_rotation(rotation)
        for k, level in enumerate(levels):
            image = np.full((32, 48, 3), level, np.uint8)
            image[:8, :12] = 250  # bright top left corner
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = (pts or range(len(levels)))[k], Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_moving(path, size, frames, *, fps=30, codec="libx264", pixels="yuv420p", **options):
    """A video of coarse noise that moves; returns the file."""
    width, height = size
    grain = np.random.RandomState(0).randint(0, 256, (height // 8 + 9, width // 8 + 9, 3))
    picture = np.kron(grain.astype(np.uint8), np.ones((8, 8, 1), np.uint8))
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        for k in range(frames):
            top, left = k % 60, 2 * k % 60
            image = np.ascontiguousarray(picture[top : top + height, left : left + width])
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = k, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def levels_of(video):
    return np.rint(video.frames[:, 20:, 20:].mean((1, 2, 3))).astype(int)
