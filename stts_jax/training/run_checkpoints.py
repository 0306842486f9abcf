"""Checkpoints that a run goes on from: parameters, optimiser state and, as JSON, `Progress`."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from stts_jax.parallel.parameters import named_parameters
from stts_jax.training.checkpoint import (
    CHECKPOINTS,
    MODEL,
    CheckpointError,
    checkpoint_steps,
    renamed,
    require_match,
    require_writable,
)
from stts_jax.training.step import TrainState

OPTIMIZER = "optimizer"


@dataclass(frozen=True)
class Progress:
    """What of a run is no array.

    Attributes:
      step: updates so far.
      seconds: spent in training steps so far, over all resumptions.
      data: state of the data iterator, one entry for each process.
    """

    step: int
    seconds: float
    data: list[Any]


class Checkpoints:
    """Writes the checkpoints of a run, in the background; keeps the newest few.

    A context manager: leaving it waits for what is still being written.
    """

    def __init__(self, output: Path, keep: int) -> None:
        policies = ocp.training.preservation_policies
        self.folder = output.resolve() / CHECKPOINTS
        require_writable(output)
        self._checkpointer = ocp.training.Checkpointer(
            self.folder,
            preservation_policy=policies.LatestN(keep),
            cleanup_tmp_directories=True,
        )

    def save(self, state: TrainState, step: int, seconds: float, data: Any) -> None:
        """Start to write a checkpoint; the state may be given up to the next step at once.

        Args:
          state: to save.
          step: updates so far.
          seconds: see `Progress`.
          data: JSON-compatible state of this process's data iterator.
        """
        self.wait()
        progress = Progress(step, seconds, _of_all_processes(data))
        arrays = {
            MODEL: named_parameters(state.model),
            OPTIMIZER: named_parameters(state.optimizer),
        }
        try:
            self._checkpointer.save_checkpointables_async(
                step,
                arrays,
                force=True,
                overwrite=True,
                custom_metadata=dataclasses.asdict(progress),
            )
        except OSError as error:
            raise self._failure(error) from error

    def wait(self) -> None:
        """Wait for what is being written."""
        try:
            self._checkpointer.wait()
        except OSError as error:
            raise self._failure(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.wait()
        finally:
            self._checkpointer.close()

    def _failure(self, error: OSError) -> CheckpointError:
        return CheckpointError(
            f"the checkpoint in '{self.folder}' cannot be written: {error}; make room or choose "
            "another folder"
        )


def restore_latest(output: Path, abstract: TrainState) -> tuple[TrainState, Progress] | None:
    """The newest checkpoint of a run, straight onto its devices; None if there is none.

    Args:
      output: folder of the run.
      abstract: shapes and shardings, see `step.abstract_state`.

    Raises:
      CheckpointError: if its arrays are not those of `abstract`.
    """
    steps = checkpoint_steps(output)
    if not steps:
        return None
    folder = output.resolve() / CHECKPOINTS / str(steps[-1])
    wanted = {
        MODEL: named_parameters(abstract.model),
        OPTIMIZER: named_parameters(abstract.optimizer),
    }
    saved = ocp.checkpointables_metadata(folder)
    for part, arrays in wanted.items():
        require_match(arrays, saved.metadata.get(part) or {}, folder)
    arrays = ocp.load_checkpointables(folder, wanted)
    state = TrainState(
        model=renamed(abstract.model, arrays[MODEL]),
        optimizer=renamed(abstract.optimizer, arrays[OPTIMIZER]),
        step=jax.device_put(np.int32(steps[-1]), abstract.step.sharding),
    )
    return state, Progress(**saved.custom_metadata)


def _of_all_processes(data: Any) -> list[Any]:
    """JSON-compatible values of all processes; only the first process writes metadata."""
    if jax.process_count() == 1:
        return [data]
    text = np.frombuffer(json.dumps(data).encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.array([len(text)])).reshape(-1)
    padded = np.pad(text, (0, int(lengths.max()) - len(text)))
    rows = multihost_utils.process_allgather(padded)
    pairs = zip(rows, lengths, strict=True)
    return [json.loads(bytes(row[:length]).decode()) for row, length in pairs]
