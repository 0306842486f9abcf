"""Batches for training, as a grain pipeline.

The order of stages is: draw examples (from each dataset at its rate, shuffled again in each epoch,
one part for each process), read and preprocess them (in worker processes if asked for), leave out
what can't be read or fits no row, pack rows into the budget, stack rows to batches, and prepare the
next ones in a thread. Every stage can be saved and restored, so a run continues with the batch it
would have seen next, whatever the number of worker processes.
"""

from __future__ import annotations

import atexit
import errno
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import grain
from absl import flags

from stts_jax.batch import Batch
from stts_jax.buckets.address import GS
from stts_jax.budget import Budget, row_budget
from stts_jax.config import Config, ConfigError, ModelConfig
from stts_jax.data.bad_examples import BadExamples, Unreadable
from stts_jax.data.chains import chain_of
from stts_jax.data.datasets.base import DatasetError
from stts_jax.data.fetching import FetchAhead
from stts_jax.data.mixture_order import Draw, MixtureOrder
from stts_jax.data.packing.fill_rates import FillRates
from stts_jax.data.packing.grouping import pack_examples
from stts_jax.data.packing.ratio_rows import RowNumbers, pack_ratio_rows
from stts_jax.data.packing.rows import row_sizes, stack_rows
from stts_jax.data.read_order import AnyWorkersIterDataset
from stts_jax.data.reader import Reader
from stts_jax.data.shared_memory import SharedMemory
from stts_jax.data.sources.configured import SOURCES, fingerprints, sources_of
from stts_jax.data.synthetic import DEFAULT_FOLDER
from stts_jax.data.worker_main import end_with_the_run
from stts_jax.train_ratios import StepSizes, at_ratio

PREPARED_BATCHES = 2
_STREAM, _STEP = "stream", "step"
# In the words of grain, which has no error of its own for it.
_WORKER_DIED = "Worker process was terminated unexpectedly with exit code "


class TrainingBatches:
    """An endless iterator over batches that can be saved and restored. Close it after use.

    Attributes:
      budget: of every row; in a run over ratios, of one at the ratio of its evaluations.
      bad: account of examples that could not be used.
      examples: number of examples in an epoch, over all processes.
      fill_rates: how full the rows are that have been handed over.
    """

    def __init__(
        self,
        dataset: grain.IterDataset,
        budget: Budget,
        bad: BadExamples,
        model: ModelConfig,
        contents: Mapping[str, str] | None = None,
        memory: SharedMemory | None = None,
        ratios: StepSizes | None = None,
        first_step: int = 0,
    ) -> None:
        """Begin the stream.

        Args:
          dataset: of batches.
          budget: of every row.
          bad: account of examples that could not be used.
          model: sizes.
          contents: fingerprints of what is read.
          memory: shared memory that its workers take.
          ratios: sizes of the rows of each step, in a run over ratios.
          first_step: step of the first batch.
        """
        self.budget, self.bad, self.examples = budget, bad, bad.total
        self.fill_rates = FillRates(budget)
        self._model = model
        self._contents, self._memory = contents, memory
        self._ratios, self._step = ratios, first_step
        self._iterator: grain.DatasetIterator | None = iter(dataset)
        atexit.register(self.close)  # an open one may not outlive the interpreter

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        try:
            batch = next(self._open)
        except RuntimeError as error:
            if _WORKER_DIED in str(error):
                raise _death_of(error, self._memory) from error
            raise
        except OSError as error:
            if error.errno == errno.ENOSPC and self._memory is not None:
                raise self._memory.full() from error
            raise
        model, budget = self._model, self.budget
        if self._ratios is not None:
            ratio = self._ratios.draw.ratio_of(self._step)
            model, budget = self._ratios.models[ratio], self._ratios.budgets[ratio]
        self._step += 1
        self.fill_rates.add(row_sizes(batch, model), budget)
        return batch

    @property
    def _open(self) -> grain.DatasetIterator:
        if self._iterator is None:
            raise ValueError("the training batches are closed; make new ones")
        return self._iterator

    def get_state(self) -> dict[str, Any]:
        """Returns the position of the stream and the names of its data, JSON-compatible."""
        state = {_STREAM: self._open.get_state()}
        if self._ratios is not None:
            state[_STEP] = self._step
        return state if self._contents is None else {**state, SOURCES: dict(self._contents)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues where `get_state` was called."""
        # Older checkpoints have only the position.
        self._open.set_state(state.get(_STREAM, state))
        self._step = state.get(_STEP, 0)

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
    first_step: int = 0,
    folder: Path = DEFAULT_FOLDER,
) -> TrainingBatches:
    """Batches of rows of `row_budget(model, data)`, without end.

    In a run over ratios the rows of a batch are filled to the budget of its step's ratio.

    Args:
      config: model and data of the run.
      seed: of order and of what is random in examples, `data.seed` by default.
      process_index, process_count: this process reads its part of the examples and makes its part
        of each batch, `data.batch_rows / process_count` rows.
      first_step: step of the first batch, in a run over ratios.
      folder: of the procedural set.

    Raises:
      ConfigError: if the rows can't be shared among the processes.
      DatasetError: if there is too little shared memory for the workers.
      DatasetError, TokenizerError: see `sources_of`, `Tokenizer.load`.
      BadExamplesError: while iterating; DatasetError if a worker process dies.
    """
    data, model = config.data, config.model
    if data.batch_rows % process_count:
        raise ConfigError(
            f"data.batch_rows is {data.batch_rows}, not a multiple of the {process_count} "
            "processes; make it one"
        )
    seed = data.seed if seed is None else seed
    memory = SharedMemory.of(model, data)
    memory.require()
    sources = sources_of(config, "train", folder)
    budget, sizes = row_budget(model, data), StepSizes.of(config)
    # An example that fits no row most often does so at the highest ratio: remedies are for that.
    tightest = at_ratio(config, max(sizes.draw.ratios))
    chains = tuple(chain_of(tightest, p_high_res=source.p_high_res or 0.0) for source in sources)
    reader = Reader(sources, chains, data, seed, tuple(sizes.models.values()))
    bad = BadExamples(sum(map(len, sources)), data.max_bad_share, tuple(map(len, sources)))
    order = MixtureOrder(
        [len(source) for source in sources], [source.rate for source in sources], seed=seed
    )
    draws = grain.MapDataset.source(order)[process_index::process_count]
    if GS in data.train or GS in data.root:
        draws = draws.map_with_index(FetchAhead(sources, draws, seed, data.workers))
    stream = draws.map(reader)
    stream = stream.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
    if data.workers:
        _accept_flags()
        options = grain.MultiprocessingOptions(num_workers=data.workers)
        stream = stream.mp_prefetch(options, worker_init_fn=end_with_the_run)
    stream = AnyWorkersIterDataset(stream, data.workers)
    stream = stream.filter(lambda item: _accept(item, bad))
    rows = data.batch_rows // process_count
    if sizes.several and budget.examples > 1:
        stream = pack_ratio_rows(stream, sizes, RowNumbers(rows, first_step))
    else:  # a row of one example is the same at every ratio
        ratio, own = next(iter(sizes.budgets.items()))
        stream = pack_examples(stream, own, sizes.models[ratio])
    stream = stream.batch(rows, drop_remainder=True, batch_fn=stack_rows)
    stream = grain.experimental.ThreadPrefetchIterDataset(
        stream, prefetch_buffer_size=PREPARED_BATCHES
    )
    ratios = sizes if model.prune.train_ratios else None
    return TrainingBatches(
        stream, budget, bad, model, fingerprints(sources), memory, ratios, first_step
    )


def _death_of(error: RuntimeError, memory: SharedMemory | None) -> DatasetError:
    """Returns the error for an example that ended the process that read it."""
    code = str(error).partition(_WORKER_DIED)[2].partition(".")[0]
    if code == str(-signal.SIGBUS) and memory is not None:  # what the system sends where it's full
        return memory.full()
    return DatasetError(
        f"a worker process that reads data died (exit code {code}); it ran out of memory (lower "
        "data.workers), or a file crashes the decoder: find it with `python -m stts_jax.data check "
        "--decode` and remove it, or leave it out of published data with data.usable"
    )


def _accept_flags() -> None:
    """Grain's worker processes insist on parsed absl flags, which programs without absl lack."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def _accept(item: dict[str, Any] | Unreadable, bad: BadExamples) -> bool:
    if isinstance(item, Unreadable):
        bad.add(item)
        return False
    bad.see(item["name"], Draw(*item["draw"]))
    for line in item["left_out"]:
        bad.add(line)
    return True
