"""Makes the videos of MVBench's Episodic Reasoning from its pictures.

    python -m stts_jax.data.datasets.benchmarks.mvbench_clips ROOT [--workers 4]

A video has all pictures of an episode, three a second, with black below and to the right up to
multiples of 16 pixels. Videos that are there are left as they are.
Source: olmo/data/academic_video_datasets.py, `MVBench.create_video_from_frames`.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from stts_jax.data.datasets.academic.tvqa_clips import padded, write_video
from stts_jax.data.datasets.base import DatasetError
from stts_jax.data.datasets.benchmarks.mvbench import EPISODIC_REASONING, VIDEO_FOLDERS


def make_video(folder: Path) -> str:
    """Write the video of an episode, and say what came of it: made, kept or without pictures."""
    video = folder / "video.mp4"
    if video.is_file():
        return "kept"
    # By their numbers: 2 before 10.
    pictures = sorted(folder.glob("*.jpg"), key=lambda path: (len(path.name), path.name))
    if not pictures:
        return "without pictures"
    unfinished = video.with_suffix(".part.mp4")
    write_video(unfinished, (padded(picture) for picture in pictures))
    unfinished.replace(video)
    return "made"


def episodes(root: Path) -> list[Path]:
    """The folders of pictures.

    Raises:
      DatasetError: if there are none.
    """
    folder = root / "MVBench" / "video" / VIDEO_FOLDERS[EPISODIC_REASONING]
    if not folder.is_dir():
        raise DatasetError(f"the folder '{folder}' does not exist; unpack MVBench's video/tvqa.zip")
    return sorted(path for path in folder.iterdir() if path.is_dir())


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Make the videos of MVBench's episodes.")
    parser.add_argument("root", type=Path, help="folder that holds the folders of all datasets")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    options = parser.parse_args(arguments)
    with ProcessPoolExecutor(options.workers) as pool:
        outcomes = Counter(pool.map(make_video, episodes(options.root)))
    print(", ".join(f"{count} videos {outcome}" for outcome, count in sorted(outcomes.items())))


if __name__ == "__main__":
    main()
