"""Batches for training, as a grain pipeline.

The order of stages is: draw examples (shuffled anew in each epoch, one part for each process),
read and preprocess them (in worker processes if asked for), leave out what can't be read, pack
rows first-fit into the budget, stack rows to batches, and prepare the next ones in a thread.
Every stage can be saved and restored, so a run goes on with the batch it would have seen next.
"""

from __future__ import annotations

import atexit
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import grain
import numpy as np
from absl import flags

from stts_jax.budget import Budget, row_budget
from stts_jax.config import Config, ConfigError, ModelConfig
from stts_jax.data.examples import Example, read_examples
from stts_jax.data.frames import BadExamples, FrameReader, Unreadable
from stts_jax.data.preprocess import ExampleArrays, FrameTokens, Preprocessor
from stts_jax.data.rows import SIZES, example_sizes, pack_row, require_fit, stack_rows
from stts_jax.data.synthetic import DEFAULT_FOLDER, PICTURES, ensure_synthetic
from stts_jax.data.tokenizer import Tokenizer
from stts_jax.data.video import VideoError

Batch = dict[str, np.ndarray]
# Rows that the packer fills at the same time: more leave fewer gaps, and cost memory.
OPEN_ROWS = 8
PREPARED_BATCHES = 2


@dataclass(frozen=True)
class Reader:
    """Turns (stream position, example number) into arrays; runs in the worker processes."""

    examples: list[Example]
    frames: FrameReader
    preprocessor: Preprocessor
    budget: Budget
    seed: int

    def __call__(self, position: int, number: int) -> dict[str, Any] | Unreadable:
        """Read an example; its randomness depends on seed, number and epoch only."""
        number, epoch = int(number), int(position) // len(self.examples)
        example = self.examples[number]
        try:
            frames = self.frames.read(example.video)
        except VideoError as error:
            return Unreadable(number, str(error))
        rng = np.random.default_rng((self.seed, number, epoch))
        arrays = self.preprocessor.training(frames, example.questions, rng)
        sizes = example_sizes(arrays, self.preprocessor.model)
        require_fit(sizes, self.budget, f"'{example.video}'")
        return {"number": number, "example": arrays, "sizes": sizes}


def examples_of(
    config: Config, split: str, folder: Path = DEFAULT_FOLDER, questions: int | None = None
) -> list[Example]:
    """The examples of `train`, `validation` or `test`; the procedural set is made if need be.

    Args:
      config: of the run.
      split: name of the set.
      folder: of the procedural set.
      questions: at most that many in an example, by default `data.questions_per_video`.
    """
    source = getattr(config.data, split)
    if source in ("synthetic", "synthetic_pictures"):
        name = split if source == "synthetic" else PICTURES
        source = ensure_synthetic(folder) / f"{name}.jsonl"
    return read_examples(source, questions or config.data.questions_per_video)


class TrainingBatches:
    """An endless iterator over batches that can be saved and restored. Close it after use.

    Attributes:
      budget: of every row.
      bad: account of examples that could not be read.
      examples: number of examples in an epoch, over all processes.
    """

    def __init__(self, dataset: grain.IterDataset, budget: Budget, bad: BadExamples) -> None:
        self.budget, self.bad, self.examples = budget, bad, bad.total
        self._iterator: grain.DatasetIterator | None = iter(dataset)
        atexit.register(self.close)  # an open one may not outlive the interpreter

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        return next(self._open)

    @property
    def _open(self) -> grain.DatasetIterator:
        if self._iterator is None:
            raise ValueError("the training batches are closed; make new ones")
        return self._iterator

    def get_state(self) -> dict[str, Any]:
        """Where the stream stands, JSON-compatible."""
        return self._open.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on where `get_state` was called."""
        self._open.set_state(state)

    def close(self) -> None:
        """End threads and worker processes."""
        atexit.unregister(self.close)
        if self._iterator is not None:
            self._iterator.close()
        self._iterator = None  # grain complains if it is freed as late as at the exit

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def training_batches(
    config: Config,
    *,
    seed: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
    folder: Path = DEFAULT_FOLDER,
    frame_tokens: FrameTokens = "video",
) -> TrainingBatches:
    """Batches of `budget.batch_arrays(row_budget(model, data), model, rows)`, without end.

    Args:
      config: model and data of the run.
      seed: of order and of the questions' order, `data.seed` by default.
      process_index, process_count: this process reads its part of the examples and makes its part
        of each batch, `data.batch_rows / process_count` rows.
      folder: of the procedural set.
      frame_tokens: see `Preprocessor`.

    Raises:
      ConfigError: if the rows can't be shared among the processes.
      ExampleError, TokenizerError: see `read_examples`, `Tokenizer.load`.
      BudgetError, BadExamplesError: while iterating.
    """
    data, model = config.data, config.model
    if data.batch_rows % process_count:
        raise ConfigError(
            f"data.batch_rows is {data.batch_rows}, no multiple of the {process_count} processes; "
            "make it one"
        )
    seed = data.seed if seed is None else seed
    examples = examples_of(config, "train", folder)
    budget = row_budget(model, data)
    reader = Reader(
        examples,
        FrameReader(model.vit, data.max_frames, data.fps, keep=data.cache_frames),
        Preprocessor(
            model,
            Tokenizer.load(data.tokenizer, model.llm.vocab_size),
            frame_tokens,
            data.shuffle_visual_tokens,
        ),
        budget,
        seed,
    )
    bad = BadExamples(len(examples), data.max_bad_share)
    order = grain.MapDataset.range(len(examples)).shuffle(seed=seed).repeat()
    order = order.map_with_index(lambda position, number: (position, number))
    stream = order[process_index::process_count].map(lambda item: reader(*item))
    stream = stream.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
    if data.workers:
        _accept_flags()
        stream = stream.mp_prefetch(grain.MultiprocessingOptions(num_workers=data.workers))
    stream = _pack(stream.filter(lambda item: _accept(item, bad)), budget, model)
    stream = stream.batch(
        data.batch_rows // process_count, drop_remainder=True, batch_fn=stack_rows
    )
    stream = grain.experimental.ThreadPrefetchIterDataset(
        stream, prefetch_buffer_size=PREPARED_BATCHES
    )
    return TrainingBatches(stream, budget, bad)


def _accept_flags() -> None:
    """Grain's worker processes insist on parsed absl flags, which programs without absl lack."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def _accept(item: dict[str, Any] | Unreadable, bad: BadExamples) -> bool:
    if isinstance(item, Unreadable):
        bad.add(item)
        return False
    bad.see(int(item["number"]))
    return True


def _pack(stream: grain.IterDataset, budget: Budget, model: ModelConfig) -> grain.IterDataset:
    """Rows by grain's first-fit packer.

    The packer fits all sizes of the budget at once, each given as an array of that length, and
    hands over the examples of a row as a list, which `pack_row` then lays out. Rows of a single
    example need none of it.
    """
    if budget.examples == 1:
        return stream.map(lambda item: pack_row([item["example"]], budget, model))
    limits = {key: getattr(budget, key) for key in SIZES}
    packed = grain.experimental.FirstFitPackIterDataset(
        stream.map(_as_lengths),
        length_struct=limits,
        num_packing_bins=OPEN_ROWS,
        meta_features=("example",),
        shuffle_bins=False,
        max_sequences_per_bin=budget.examples,
    )
    return packed.map(lambda row: pack_row(row["example"], budget, model))


def _as_lengths(item: dict[str, Any]) -> dict[str, np.ndarray | ExampleArrays]:
    lengths = {key: np.empty(int(size), np.bool_) for key, size in item["sizes"].items()}
    return {**lengths, "example": item["example"]}
