"""Draws the kept tokens of frames: dropped ones dark, scores as colours with a legend."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import matplotlib
import numpy as np
from PIL import Image, ImageDraw

from stts_jax.data.media_file import ffmpeg_name

# Longest side of a frame that is looked at, and the shortest, pixels.
LARGEST, SMALLEST = 640, 16
# A frame in a contact sheet: height, and width at most, pixels.
TILE, TILE_WIDTH = 144, 432
CAPTION = 14
COLUMNS = 8
GAP = 4
# The scale: height of the strip below the pictures, and of its colours, pixels.
LEGEND, BAR = 24, 10
DIMMED = 0.18
COLOURS = "viridis"


def looked_at(frame: np.ndarray) -> np.ndarray:
    """Shrinks a frame to the size that pictures of it are drawn in.

    Args:
      frame: (H, W, 3) uint8 of any size.

    Returns:
      (h, w, 3) uint8 of even sides, the longest of them `LARGEST` at most.
    """
    height, width = frame.shape[:2]
    scale = min(1.0, LARGEST / max(height, width))
    size = [max(SMALLEST, 2 * round(side * scale / 2)) for side in (width, height)]
    return _sized(frame, (size[0], size[1]))


def kept_overlay(frame: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """A frame with its dropped tokens dark and grey.

    Args:
      frame: (H, W, 3) uint8.
      keep: (P,) bool, tokens row-major.

    Returns:
      (H, W, 3) uint8.
    """
    mask = _upsampled(keep.astype(np.float32), frame.shape[:2]) > 0.5
    grey = frame.mean(-1, keepdims=True) * DIMMED
    return np.where(mask[..., None], frame, grey).astype(np.uint8)


def score_map(scores: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Scores as colours, dark is low: (P,) in [0, 1] and (H, W) -> (H, W, 3) uint8."""
    colours = matplotlib.colormaps[COLOURS](_upsampled(scores, shape))[..., :3]
    return (colours * 255).astype(np.uint8)


def contact_sheet(
    frames: np.ndarray, timestamps: np.ndarray, keep: np.ndarray, scores: np.ndarray
) -> Image.Image:
    """All frames in a sheet; of each, the kept tokens above and the scores below.

    Scores are stretched over the video: the lowest is darkest, the highest brightest. A scale below
    says which are which.

    Args:
      frames: (T, H, W, 3) uint8.
      timestamps: (T,) seconds.
      keep: (T, P) bool.
      scores: (T, P).
    """
    count, height, width = frames.shape[:3]
    size = (min(TILE_WIDTH, max(TILE // 2, round(TILE * width / height))), TILE)
    lines = -(-count // COLUMNS)
    columns = -(-count // lines)  # lines of about the same length
    step = (max(size[0], TILE // 2) + GAP, 2 * TILE + CAPTION + 2 * GAP)
    wide = max(columns * step[0] - GAP, 2 * TILE)
    sheet = Image.new("RGB", (wide, lines * step[1] + LEGEND), "white")
    draw = ImageDraw.Draw(sheet)
    stretched = stretch(scores)
    for index in range(count):
        x, y = index % columns * step[0], index // columns * step[1]
        draw.text((x + 2, y + 1), _caption(timestamps[index], keep[index]), fill="black")
        frame = _sized(frames[index], size)
        sheet.paste(Image.fromarray(kept_overlay(frame, keep[index])), (x, y + CAPTION))
        colours = score_map(stretched[index], frame.shape[:2])
        sheet.paste(Image.fromarray(colours), (x, y + CAPTION + TILE + 2))
    sheet.paste(_scale(wide, scores), (0, lines * step[1]))
    return sheet


def overlay_video(
    path: Path, frames: np.ndarray, keep: np.ndarray, scores: np.ndarray, fps: float
) -> None:
    """Write an mp4: each frame, what is kept of it, and its scores, side by side above a scale.

    Scores have the colours that they have in `contact_sheet`. Panels are made one at a time.

    Args:
      path: of the file.
      frames: (T, H, W, 3) uint8; drawn in the size that `looked_at` gives them.
      keep: (T, P) bool.
      scores: (T, P).
      fps: frames shown per second.
    """
    height, width = looked_at(frames[0]).shape[:2]
    legend = np.asarray(_scale(3 * width, scores))
    with av.open(ffmpeg_name(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.pix_fmt = "yuv420p"
        stream.width, stream.height = 3 * width, height + LEGEND
        for frame, kept, rated in zip(frames, keep, stretch(scores), strict=True):
            frame = looked_at(frame)
            panel = [frame, kept_overlay(frame, kept), score_map(rated, frame.shape[:2])]
            drawn = np.concatenate([np.concatenate(panel, axis=1), legend])
            for packet in stream.encode(av.VideoFrame.from_ndarray(drawn, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def stretch(scores: np.ndarray) -> np.ndarray:
    """Scores moved and scaled to fill [0, 1]; zeros if they are all the same."""
    low, high = float(scores.min()), float(scores.max())
    return (scores - low) / (high - low) if high > low else np.zeros_like(scores)


def _scale(width: int, scores: np.ndarray) -> Image.Image:
    """Draws the legend of the colours: (width, LEGEND) pixels; words as far as there is room."""
    strip = Image.new("RGB", (width, LEGEND), "white")
    draw = ImageDraw.Draw(strip)
    low, high = f"score {scores.min():.2g}", f"{scores.max():.2g}"
    top = (LEGEND - BAR) // 2
    start = min(round(draw.textlength(low)) + 8, width // 3)
    end = min(start + TILE, width - 2)
    draw.text((2, top - 1), low, fill="black")
    bar = matplotlib.colormaps[COLOURS](np.linspace(0, 1, max(1, end - start)))[:, :3]
    row = (bar * 255).astype(np.uint8)
    strip.paste(Image.fromarray(np.repeat(row[None], BAR, 0)), (start, top))
    draw.text((end + 6, top - 1), high, fill="black")
    note, at = "dark and grey: dropped", end + 6 + round(draw.textlength(high)) + 18
    if at + draw.textlength(note) <= width:
        draw.text((at, top - 1), note, fill="black")
    return strip


def _caption(seconds: float, keep: np.ndarray) -> str:
    return f"{seconds:.1f} s  {int(keep.sum())}/{keep.size}"


def _sized(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A frame in (width, height), smoothed where it shrinks."""
    if (frame.shape[1], frame.shape[0]) == size:
        return frame
    return np.asarray(Image.fromarray(frame).resize(size, reducing_gap=2.0))


def _upsampled(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(P,) -> (H, W), each pooled token's value over its part of the frame."""
    side = int(np.sqrt(values.size))
    rows, columns = (np.arange(length) * side // length for length in shape)
    return values.reshape(side, side)[rows[:, None], columns[None, :]]
