"""Batches of prompts, one question a row, to be answered."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from stts_jax.budget import Budget, video_budget
from stts_jax.config import Config
from stts_jax.data.examples import Example
from stts_jax.data.frames import BadExamples, FrameReader, Unreadable
from stts_jax.data.pipeline import Batch, examples_of
from stts_jax.data.preprocess import FrameTokens, Preprocessor
from stts_jax.data.rows import example_sizes, pack_row, require_fit, stack_rows
from stts_jax.data.synthetic import DEFAULT_FOLDER
from stts_jax.data.tokenizer import Tokenizer
from stts_jax.data.video import VideoError, probe, sample_times

TEXT_MULTIPLE = 32  # text room is rounded up to it, so that like sets compile to like shapes


@dataclass
class PromptBatches:
    """Iterates over (batch, examples of one question each); may be iterated again.

    The rows of a batch are the examples in order; the last batch is filled up with empty rows, so
    `len(examples)` is the number of rows that count. Questions about unreadable videos are left
    out and accounted for in `bad`.

    Attributes:
      examples: one video and one question each.
      budget: of every row.
      tokenizer: to decode answers with.
      bad: account of what could not be read.
    """

    examples: list[Example]
    budget: Budget
    tokenizer: Tokenizer
    bad: BadExamples
    _rows: int
    _preprocessor: Preprocessor
    _frames: FrameReader = field(repr=False)

    def __len__(self) -> int:
        """Batches, if everything can be read."""
        return -(-len(self.examples) // self._rows)

    def __iter__(self) -> Iterator[tuple[Batch, list[Example]]]:
        rows = self._prompts()
        while chunk := list(itertools.islice(rows, self._rows)):
            packed = [row for row, _ in chunk]
            empty = [pack_row([], self.budget, self._preprocessor.model)]
            packed += empty * (self._rows - len(packed))
            yield stack_rows(packed), [example for _, example in chunk]

    def _prompts(self) -> Iterator[tuple[Batch, Example]]:
        model = self._preprocessor.model
        for number, example in enumerate(self.examples):
            try:
                frames = self._frames.read(example.video)
            except VideoError as error:
                self.bad.add(Unreadable(number, str(error)))
                continue
            self.bad.see(number)
            arrays = self._preprocessor.prompt(frames, example.questions[0])
            require_fit(example_sizes(arrays, model), self.budget, f"'{example.video}'")
            yield pack_row([arrays], self.budget, model), example


def prompt_batches(
    config: Config,
    split: str,
    *,
    frames_scale: float = 1.0,
    limit: int | None = None,
    rows: int | None = None,
    folder: Path = DEFAULT_FOLDER,
    frame_tokens: FrameTokens = "video",
) -> PromptBatches:
    """Prompts of a set, one question a row, in the order of the file.

    Args:
      config: model and data of the run.
      split: `train`, `validation` or `test`.
      frames_scale: times `data.max_frames` frames are taken at most (test-time scaling); the
        highest sampling rate stays `data.fps`.
      limit: only that many questions, the first.
      rows: of a batch, `eval.batch_rows` by default.
      folder: of the procedural set.
      frame_tokens: see `Preprocessor`.
    """
    examples = examples_of(config, split, folder, questions=1)[:limit]
    return batches_of_prompts(
        config, examples, frames_scale=frames_scale, rows=rows, frame_tokens=frame_tokens
    )


def batches_of_prompts(
    config: Config,
    examples: Sequence[Example],
    *,
    frames_scale: float = 1.0,
    rows: int | None = None,
    frame_tokens: FrameTokens = "video",
) -> PromptBatches:
    """As `prompt_batches`, of examples that are at hand; only their first questions are asked."""
    data, model = config.data, config.model
    max_frames = max(1, round(data.max_frames * frames_scale))
    tokenizer = Tokenizer.load(data.tokenizer, model.llm.vocab_size)
    preprocessor = Preprocessor(model, tokenizer, frame_tokens)
    text = _text_room(examples, preprocessor, max_frames, data.fps)
    return PromptBatches(
        list(examples),
        video_budget(model, frames=max_frames, videos=1, text_tokens=text),
        tokenizer,
        BadExamples(len(examples), data.max_bad_share),
        rows or config.eval.batch_rows,
        preprocessor,
        FrameReader(model.vit, max_frames, data.fps, keep=data.cache_frames),
    )


def _text_room(
    examples: Iterable[Example], preprocessor: Preprocessor, max_frames: int, fps: float
) -> int:
    """Tokens of the longest prompt that are not visual, rounded up.

    Frame times are text too, so videos are probed for their length, which doesn't decode them.
    """
    longest = 0
    lengths: dict[Path, int] = {}
    for example in examples:
        if example.video not in lengths:
            lengths[example.video] = _vision_text(example.video, preprocessor, max_frames, fps)
        prompt = len(preprocessor.prompt_ids(example.questions[0]))
        longest = max(longest, 1 + lengths[example.video] + prompt)
    return max(1, -(-longest // TEXT_MULTIPLE)) * TEXT_MULTIPLE


def _vision_text(path: Path, preprocessor: Preprocessor, max_frames: int, fps: float) -> int:
    try:
        times = sample_times(probe(path).duration, max_frames, fps)
    except VideoError:
        return 0  # left out when it is read
    patches = len(times) * preprocessor.model.tokens_per_frame
    return len(preprocessor.vision_ids(np.asarray(times))) - patches
