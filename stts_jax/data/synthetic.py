"""The procedural video question set: real mp4 files and JSONL, made from a seed.

    python -m stts_jax.data.synthetic runs/data/synthetic --videos 2000 --seed 0

A folder holds `train.jsonl`, `validation.jsonl` and `test.jsonl` in the form that users write
(README, "Your own data"), the videos, and `scenes.jsonl`, which says what is where in each video;
and `pictures.jsonl` with videos of one frame, to learn to see from before learning time.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np

from stts_jax.arguments import Parser, seed
from stts_jax.data.media_file import ffmpeg_name
from stts_jax.data.scene_questions import SceneQuestion, ask, ask_picture
from stts_jax.data.scenes import Scene, SceneConfig, plan_picture, plan_scene, render
from stts_jax.data.worker_start import light_workers
from stts_jax.terminal import progress_bar

SPLITS = ("train", "validation", "test")
DEFAULT_FOLDER = Path("runs/data/synthetic")
DEFAULT_VIDEOS = 2000
HELD_OUT_SHARE = 0.1
STAMP = "synthetic.json"
PICTURES = "pictures"
PICTURES_PER_VIDEO = 2
MANY_VIDEOS = 500
# Nearly lossless and 4:4:4, so that the colours of small shapes survive.
CODEC_OPTIONS = {"crf": "6", "preset": "ultrafast", "threads": "1", "bf": "0"}


class SyntheticError(ValueError):
    """A folder that cannot be used; the message is one sentence with the remedy."""


def split_sizes(videos: int) -> dict[str, int]:
    """Videos of each split: a tenth for validation and for test, at least one."""
    held_out = max(1, round(videos * HELD_OUT_SHARE))
    if videos < 3:
        raise SyntheticError(f"--videos is {videos}; every split needs one, so use 3 or more")
    return {"train": videos - 2 * held_out, "validation": held_out, "test": held_out}


def plan_video(index: int, seed: int, config: SceneConfig) -> tuple[Scene, list[SceneQuestion]]:
    """Scene and questions of video `index`, a pure function of the arguments."""
    rng = np.random.default_rng((seed, index))
    scene = plan_scene(rng, config)
    return scene, ask(scene, rng, config)


def write_video(path: Path, frames: np.ndarray, fps: int) -> None:
    """Encode (n, H, W, 3) uint8 frames as an H.264 mp4 file, the same bytes for the same frames."""
    with av.open(ffmpeg_name(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps), options=CODEC_OPTIONS)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv444p"
        stream.gop_size = len(frames)
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def ensure_synthetic(
    folder: Path = DEFAULT_FOLDER,
    *,
    videos: int = DEFAULT_VIDEOS,
    seed: int = 0,
    config: SceneConfig | None = None,
    progress: bool = True,
) -> Path:
    """Make the set in `folder` unless it is there already; it appears whole or not at all.

    Args:
      folder: where to.
      videos: of all splits together.
      seed: of everything in it.
      config: difficulty, `SceneConfig()` by default.
      progress: show a bar.

    Returns:
      `folder`.

    Raises:
      SyntheticError: if the folder holds something else or can't be written, or the seed is none.
    """
    config = config or SceneConfig()
    if seed < 0:
        raise SyntheticError(f"--seed is {seed}; use 0 or more")
    stamp = {"videos": videos, "seed": seed, "scene": dataclasses.asdict(config)}
    stamp = json.loads(json.dumps(stamp))
    if _is_made(folder, stamp):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise _not_made(folder, error) from error
    try:
        _write(temporary, videos, seed, config, progress)
        (temporary / STAMP).write_text(json.dumps(stamp, indent=2) + "\n")
        if folder.is_dir():  # empty, see _is_made
            folder.rmdir()
        temporary.chmod(0o755)
        temporary.rename(folder)
    except OSError as error:
        # Another process may have been faster.
        if not _is_made(folder, stamp):
            raise _not_made(folder, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _is_made(folder: Path, stamp: dict[str, Any]) -> bool:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    if not (folder / STAMP).is_file():
        raise SyntheticError(f"'{folder}' holds other files; choose another folder")
    if json.loads((folder / STAMP).read_text()) != stamp:
        raise SyntheticError(
            f"'{folder}' was made with other settings (see {STAMP}); choose another folder, or "
            "delete it to make it again"
        )
    return True


def _not_made(folder: Path, error: OSError) -> SyntheticError:
    return SyntheticError(
        f"the procedural set cannot be made in '{folder}': {error.strerror or error}; choose "
        "another folder (train.py and eval.py: --data-dir), or make room there"
    )


def _write(folder: Path, videos: int, seed: int, config: SceneConfig, progress: bool) -> None:
    pictures = PICTURES_PER_VIDEO * videos
    bar = progress_bar(
        total=videos + pictures,
        desc=f"making the procedural set in '{folder}'",
        unit="videos",
        shown=progress,
    )
    with bar, _mapping(videos) as each, (folder / "scenes.jsonl").open("w") as scenes:
        start = 0
        for split, size in split_sizes(videos).items():
            (folder / split).mkdir()
            make_video = partial(_make_video, folder, split, seed, config)
            with (folder / f"{split}.jsonl").open("w") as lines:
                for questions, scene in each(make_video, range(start, start + size)):
                    lines.write(questions)
                    scenes.write(scene)
                    bar.update()
            start += size
        (folder / PICTURES).mkdir()
        make_picture = partial(_make_picture, folder, seed, config)
        with (folder / f"{PICTURES}.jsonl").open("w") as lines:
            for questions in each(make_picture, range(pictures)):
                lines.write(questions)
                bar.update()


@contextmanager
def _mapping(videos: int) -> Iterator[Callable[..., Iterable[Any]]]:
    """Python's `map`, or that of a process for each core where starting them pays."""
    if videos < MANY_VIDEOS:
        yield map
        return
    spawn = multiprocessing.get_context("spawn")
    # A user's own program may be the main module, with nothing that keeps it from running again.
    with light_workers(), ProcessPoolExecutor(mp_context=spawn) as pool:
        yield partial(pool.map, chunksize=32)


def _make_video(
    folder: Path, split: str, seed: int, config: SceneConfig, index: int
) -> tuple[str, str]:
    """Write a video; the lines of its questions, and its line of the scenes."""
    name = f"{split}/{index:06d}.mp4"
    scene, questions = plan_video(index, seed, config)
    write_video(folder / name, render(scene, config), config.fps)
    actors = [dataclasses.asdict(actor) for actor in scene.actors]
    return _lines(name, questions), json.dumps({"video": name, "actors": actors}) + "\n"


def _make_picture(folder: Path, seed: int, config: SceneConfig, index: int) -> str:
    """Write a video of one frame, to learn to see from before learning time; its questions."""
    name = f"{PICTURES}/{index:06d}.mp4"
    rng = np.random.default_rng((seed, index, 1))
    scene = plan_picture(rng, config)
    questions = ask_picture(scene, rng, config)
    one_frame = dataclasses.replace(config, seconds=1 / config.fps)
    write_video(folder / name, render(scene, one_frame), config.fps)
    return _lines(name, questions)


def _lines(video: str, questions: Sequence[SceneQuestion]) -> str:
    return "".join(_line(video, question) for question in questions)


def _line(video: str, question: SceneQuestion) -> str:
    values = {"video": video, **dataclasses.asdict(question)}
    return json.dumps({k: v for k, v in values.items() if v is not None}) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = Parser(description="Make the procedural video question set.")
    parser.add_argument("folder", type=Path, help="where to; it must not hold other files")
    parser.add_argument("--videos", type=int, default=DEFAULT_VIDEOS, help="of all splits together")
    parser.add_argument("--seed", type=seed, default=0)
    options = parser.parse_args(arguments)
    try:
        ensure_synthetic(options.folder, videos=options.videos, seed=options.seed)
    except SyntheticError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    # Worker processes find what they call by the module's name; they don't have this main module.
    from stts_jax.data import synthetic

    sys.exit(synthetic.main())
