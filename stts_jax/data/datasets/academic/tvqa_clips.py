"""Makes the video clips of TVQA from its pictures.

    python -m stts_jax.data.datasets.academic.tvqa_clips ROOT [--split train] [--workers 4]

A clip has the pictures of a scene, three a second, with black below and to the right up to
multiples of 16 pixels. Clips that are there are left as they are.
Source: olmo/data/academic_video_datasets.py, `_create_video_from_frame_range`.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
from PIL import Image

from stts_jax.data.datasets.academic.tvqa import (
    PICTURES_PER_SECOND,
    Scene,
    read_questions,
    scene_of,
)
from stts_jax.data.media_file import ffmpeg_name

MULTIPLE = 16


def make_clip(root: Path, scene: Scene) -> str:
    """Write the clip of a scene, and say what came of it: "made", "kept" or "without pictures"."""
    folder = root / scene.folder
    clip = folder / scene.clip
    if clip.is_file():
        return "kept"
    pictures = [folder / f"{number:05d}.jpg" for number in scene.pictures]
    pictures = [picture for picture in pictures if picture.is_file()]
    if not pictures:
        return "without pictures"
    unfinished = clip.with_suffix(".part.mp4")
    write_video(unfinished, (padded(picture) for picture in pictures))
    unfinished.replace(clip)
    return "made"


def padded(picture: Path) -> np.ndarray:
    """(H, W, 3) uint8, black below and to the right of the picture up to multiples of 16."""
    with Image.open(picture) as opened:
        pixels = np.asarray(opened.convert("RGB"))
    below, right = (-side % MULTIPLE for side in pixels.shape[:2])
    return np.pad(pixels, ((0, below), (0, right), (0, 0)))


def write_video(path: Path, frames: Iterator[np.ndarray]) -> None:
    """Encode frames (H, W, 3) uint8 of one size as H.264."""
    with av.open(ffmpeg_name(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(PICTURES_PER_SECOND))
        for number, pixels in enumerate(frames):
            if number == 0:
                stream.height, stream.width = pixels.shape[:2]
                stream.pix_fmt = "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Make the video clips of TVQA from its pictures.")
    parser.add_argument("root", type=Path, help="folder that holds the folders of all datasets")
    parser.add_argument("--split", choices=("train", "validation"), default="train")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    options = parser.parse_args(arguments)
    name = "val" if options.split == "validation" else options.split
    rows = read_questions(options.root / "TVQA" / f"tvqa_{name}.jsonl")
    # A scene may have several questions; two processes must not write the same clip.
    scenes = {(s.folder, s.clip): s for s in map(scene_of, rows) if s is not None}
    with ProcessPoolExecutor(options.workers) as pool:
        outcomes = Counter(pool.map(partial(make_clip, options.root), scenes.values()))
    print(", ".join(f"{count} clips {outcome}" for outcome, count in sorted(outcomes.items())))


if __name__ == "__main__":
    main()
