"""Pictures of what was kept: dropped tokens dark, scores as colours."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import matplotlib
import numpy as np
from PIL import Image, ImageDraw

# Height of a frame in a picture, pixels.
TILE = 144
CAPTION = 14
COLUMNS = 8
DIMMED = 0.18


def kept_overlay(frame: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """A frame with its dropped tokens dark and grey.

    Args:
      frame: (H, W, 3) uint8.
      keep: (P,) bool, tokens row-major.

    Returns:
      (H, W, 3) uint8.
    """
    mask = _cells(keep.astype(np.float32), frame.shape[:2]) > 0.5
    grey = frame.mean(-1, keepdims=True) * DIMMED
    return np.where(mask[..., None], frame, grey).astype(np.uint8)


def score_map(scores: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Scores as colours, dark is low: (P,) in [0, 1] and (H, W) -> (H, W, 3) uint8."""
    colours = matplotlib.colormaps["viridis"](_cells(scores, shape))[..., :3]
    return (colours * 255).astype(np.uint8)


def contact_sheet(
    frames: np.ndarray, timestamps: np.ndarray, keep: np.ndarray, scores: np.ndarray
) -> Image.Image:
    """All frames in a sheet; of each, the kept tokens above and the scores below.

    Scores are stretched over the video: the lowest is darkest, the highest brightest.

    Args:
      frames: (T, H, W, 3) uint8.
      timestamps: (T,) seconds.
      keep: (T, P) bool.
      scores: (T, P).
    """
    count, height, width = frames.shape[:3]
    size = (max(1, round(TILE * width / height)), TILE)
    columns = min(COLUMNS, count)
    lines = -(-count // columns)
    step = (size[0] + 4, 2 * TILE + CAPTION + 8)
    sheet = Image.new("RGB", (columns * step[0] - 4, lines * step[1] - 4), "white")
    draw = ImageDraw.Draw(sheet)
    stretched = stretch(scores)
    for index in range(count):
        x, y = index % columns * step[0], index // columns * step[1]
        draw.text((x + 2, y + 1), _caption(timestamps[index], keep[index]), fill="black")
        frame = np.asarray(Image.fromarray(frames[index]).resize(size))
        sheet.paste(Image.fromarray(kept_overlay(frame, keep[index])), (x, y + CAPTION))
        colours = score_map(stretched[index], frame.shape[:2])
        sheet.paste(Image.fromarray(colours), (x, y + CAPTION + TILE + 2))
    return sheet


def overlay_video(
    path: Path, frames: np.ndarray, keep: np.ndarray, scores: np.ndarray, fps: float
) -> None:
    """Write an mp4: each frame, what is kept of it, and its scores, side by side.

    Scores have the colours that they have in `contact_sheet`.

    Args:
      path: of the file.
      frames: (T, H, W, 3) uint8.
      keep: (T, P) bool.
      scores: (T, P).
      fps: frames shown per second.
    """
    panels = [
        np.concatenate([f, kept_overlay(f, k), score_map(s, f.shape[:2])], axis=1)
        for f, k, s in zip(frames, keep, stretch(scores), strict=True)
    ]
    height, width = panels[0].shape[:2]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.pix_fmt = "yuv420p"
        # This pixel format wants even sides.
        stream.width, stream.height = width - width % 2, height - height % 2
        for panel in panels:
            cut = np.ascontiguousarray(panel[: stream.height, : stream.width])
            for packet in stream.encode(av.VideoFrame.from_ndarray(cut, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def stretch(scores: np.ndarray) -> np.ndarray:
    """Scores moved and scaled to fill [0, 1]; zeros if they are all the same."""
    low, high = float(scores.min()), float(scores.max())
    return (scores - low) / (high - low) if high > low else np.zeros_like(scores)


def _caption(seconds: float, keep: np.ndarray) -> str:
    return f"{seconds:.1f} s  {int(keep.sum())}/{keep.size}"


def _cells(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(P,) -> (H, W), each cell's value all over its part of the frame."""
    side = int(np.sqrt(values.size))
    rows, columns = (np.arange(length) * side // length for length in shape)
    return values.reshape(side, side)[rows[:, None], columns[None, :]]
