"""Measures how fast one core reads, prepares and packs examples, in videos per second.

Times are of processors, not of the clock: they add up the threads of a stage, and other programs
hardly change them.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import grain
import numpy as np
from tqdm import tqdm

from stts_jax.budget import row_budget
from stts_jax.config import Config
from stts_jax.data.bad_examples import READING_ERRORS
from stts_jax.data.chains import chain_of
from stts_jax.data.datasets.base import DatasetError
from stts_jax.data.example_chain import ExampleChain, example_rng
from stts_jax.data.media_file import ffmpeg_name
from stts_jax.data.mixture_order import MixtureOrder
from stts_jax.data.packing.grouping import pack_examples
from stts_jax.data.packing.rows import example_sizes, stack_rows
from stts_jax.data.sources.configured import sources_of
from stts_jax.data.sources.source import Source
from stts_jax.data.synthetic import DEFAULT_FOLDER

STAGES = ("decode", "preprocess", "pack")
# The clip that is made where no data are at hand.
WIDTH, HEIGHT, FPS = 1280, 720, 30
# Frames between key frames, as hosts of videos commonly have it.
GROUP = 60
_CELL = 8


@dataclass(frozen=True)
class Speed:
    """Processor time of the stages.

    Attributes:
      seconds: of each of the `STAGES`. Decoding includes reading the file and resizing frames;
        preprocessing makes patches, text and tokens; packing chooses rows and stacks batches.
      examples: that were read, each with one video, its images, or text alone.
      frames: of all of them.
      unreadable: others that were left out.
    """

    seconds: dict[str, float]
    examples: int
    frames: int
    unreadable: int

    @property
    def total(self) -> float:
        """Seconds of all stages."""
        return sum(self.seconds.values())

    @property
    def per_second(self) -> float:
        """Examples that one core brings from the file to a batch in a second."""
        return self.examples / self.total

    def cores_for(self, rate: float) -> int:
        """Cores that a consumer of `rate` examples a second needs."""
        return math.ceil(rate / self.per_second)


def measure(
    config: Config, examples: int, *, folder: Path = DEFAULT_FOLDER, progress: bool = False
) -> Speed:
    """Bring examples of the training set to batches, in this process and one after another.

    Args:
      config: of the run; `data.train` is read in the order of training.
      examples: to read.
      folder: of the procedural set.
      progress: whether to show a bar (on a terminal).

    Raises:
      DatasetError: if none can be read. See also `sources_of` and `Tokenizer.load`.
    """
    sources = sources_of(config, "train", folder)
    chains = tuple(chain_of(config, p_high_res=source.p_high_res or 0.0) for source in sources)
    seconds = dict.fromkeys(STAGES, 0.0)
    items, unreadable, frames = [], 0, 0
    bar = tqdm(_drawn(config, sources, chains, examples), total=examples, unit="example",
               desc="reading", disable=None if progress else True)  # fmt: skip
    for source, chain, index, epoch in bar:
        rng = example_rng(source.number(index), epoch, config.data.seed)
        try:
            with _timed(seconds, "decode"):
                example = source.get(index, rng)
                media = chain.load(example, rng)
            with _timed(seconds, "preprocess"):
                made = chain.prepare(example, media, "train", rng, source.weight).arrays
        except READING_ERRORS:
            unreadable += 1
            continue
        frames += int(made["num_images"][0])
        items.append({"example": made, "sizes": example_sizes(made, config.model)})
    if not items:
        raise DatasetError(
            f"none of {examples} examples of '{config.data.train}' can be read; look into them "
            "with `python -m stts_jax.data check`"
        )
    with _timed(seconds, "pack"):
        _pack(items, config)
    return Speed(seconds, len(items), frames, unreadable)


def lines(speed: Speed, rate: float | None = None) -> list[str]:
    """Returns the measurements as a table.

    Args:
      speed: that was measured.
      rate: examples a second that a consumer takes, to say how many cores it needs.
    """
    per_frame = speed.frames / speed.examples
    told = [f"{speed.examples} examples of {per_frame:.1f} frames on the average, on one core:"]
    told += [f"{'stage':<12}{'ms/example':>12}{'examples/s':>12}{'share':>8}"]
    for stage, seconds in [*speed.seconds.items(), ("all", speed.total)]:
        each = seconds / speed.examples
        told.append(
            f"{stage:<12}{1e3 * each:12.2f}{1 / max(each, 1e-9):12.2f}{seconds / speed.total:8.0%}"
        )
    if speed.unreadable:
        told.append(f"{speed.unreadable} others could not be read")
    if rate is not None:
        told.append(f"{rate:g} examples a second need {speed.cores_for(rate)} cores")
    return told


def _drawn(
    config: Config, sources: Sequence[Source], chains: Sequence[ExampleChain], count: int
) -> Iterator[tuple[Source, ExampleChain, int, int]]:
    order = MixtureOrder(
        [len(source) for source in sources],
        [source.rate for source in sources],
        seed=config.data.seed,
    )
    for number in range(count):
        draw = order[number]
        yield sources[draw.source], chains[draw.source], draw.index, draw.epoch


def _pack(items: list[dict[str, Any]], config: Config) -> None:
    """Packs the examples as the pipeline does."""
    stream = grain.MapDataset.source(items).to_iter_dataset(
        grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    )
    rows = iter(pack_examples(stream, row_budget(config.model, config.data), config.model))
    while batch := list(itertools.islice(rows, config.data.batch_rows)):
        stack_rows(batch)


@contextlib.contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.process_time()
    try:
        yield
    finally:
        seconds[stage] += time.process_time() - start


def made_clip_set(folder: Path, seconds: float, width: int = WIDTH, height: int = HEIGHT) -> Path:
    """Write a clip of 30 frames a second (H.264), and a question about it.

    Coarse noise moves across it.

    Args:
      folder: that exists.
      seconds: its length.
      width, height: in pixels, 1280 x 720 by default.

    Returns:
      the JSONL file of one question.
    """
    random = np.random.RandomState(0)
    cells = random.randint(0, 256, (height // _CELL + 9, width // _CELL + 9, 3)).astype(np.uint8)
    noise = np.kron(cells, np.ones((_CELL, _CELL, 1), np.uint8))
    with av.open(ffmpeg_name(folder / "clip.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.gop_size = GROUP
        for number in range(round(seconds * FPS)):
            top, left = number % 60, 2 * number % 60
            image = np.ascontiguousarray(noise[top : top + height, left : left + width])
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    line = {"video": "clip.mp4", "question": "What moves?", "answer": "Noise"}
    (folder / "clip.jsonl").write_text(json.dumps(line) + "\n")
    return folder / "clip.jsonl"
