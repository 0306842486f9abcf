"""Counts and draws on held-out clips whether pruning keeps the moving parts."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stts_jax.config import Config
from stts_jax.evaluation.overlay import contact_sheet, overlay_video
from stts_jax.evaluation.single import Kept, kept_tokens
from stts_jax.model.video_language_model import VideoLanguageModel

# Levels of grey; the codec's noise in still areas is well below, a shape's edge well above.
CHANGED = 40
# Brightest level of a token that shows a procedural shape; backgrounds stay below 95.
LIT = 120


def changed_cells(frames: np.ndarray, tokens: int) -> np.ndarray:
    """Finds tokens whose pixels changed since the frame before: (T, H, W, 3) -> (T, P) bool.

    The first frame has no frame before and counts as unchanged.
    """
    side = int(np.sqrt(tokens))
    size = frames.shape[1] // side
    difference = np.abs(np.diff(frames.astype(np.int16), axis=0)).max(-1)
    changes = difference.reshape(-1, side, size, side, size).max(axis=(2, 4))
    return np.concatenate([np.zeros((1, tokens), bool), changes.reshape(-1, tokens) > CHANGED])


def lit_cells(frames: np.ndarray, tokens: int) -> np.ndarray:
    """Finds tokens that show a procedural shape: (T, H, W, 3) -> (T, P) bool."""
    side = int(np.sqrt(tokens))
    size = frames.shape[1] // side
    brightest = frames.max(-1).reshape(-1, side, size, side, size).max(axis=(2, 4))
    return brightest.reshape(-1, tokens) > LIT


def kept_shares(kept: Sequence[Kept]) -> tuple[float, float]:
    """Returns the shares kept of two kinds of tokens, without first frames.

    Returns:
      of shapes that have just come, moved or changed; of background that stays as it is. Cells
      that a shape has just left are neither.
    """
    counts = np.zeros((2, 2))
    for one in kept:
        tokens = one.keep.shape[1]
        changed = changed_cells(one.video.frames, tokens)[1:]
        lit = lit_cells(one.video.frames, tokens)[1:]
        for row, which in enumerate((changed & lit, ~changed & ~lit)):
            counts[row] += one.keep[1:][which].sum(), which.sum()
    shares = counts[:, 0] / np.maximum(counts[:, 1], 1)
    return float(shares[0]), float(shares[1])


def draw(
    model: VideoLanguageModel, config: Config, clips: Sequence[Path], folder: Path
) -> list[Path]:
    """Draws a contact sheet and an overlay video of each clip; returns the sheets."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    sheets = []
    for clip in clips:
        kept = kept_tokens(model, config, clip)
        video = kept.video
        sheet = folder / f"{clip.stem}_kept.png"
        contact_sheet(video.frames, video.timestamps, kept.keep, kept.scores).save(sheet)
        file = sheet.with_suffix(".mp4")
        overlay_video(file, video.frames, kept.keep, kept.scores, config.data.fps)
        sheets.append(sheet)
    return sheets
