"""Saves the state of a run: parameters, optimizer state and, as JSON, `Progress`.

`restore` reads it.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
from orbax.checkpoint import v1 as ocp

from stts_jax.buckets.address import is_bucket
from stts_jax.buckets.whole_files import delete_folder, write_whole
from stts_jax.config import DataConfig, TrainConfig
from stts_jax.parallel.parameters import named_parameters
from stts_jax.parallel.processes import Share, is_first, notice
from stts_jax.training.checkpointing.checkpoint_errors import CheckpointError
from stts_jax.training.checkpointing.run_folder import (
    CHECKPOINTS,
    DAMAGED,
    MODEL,
    checkpoint_steps,
    is_committed,
    require_writable,
    unfinished_steps,
)
from stts_jax.training.checkpointing.stored_arrays import in_blocks
from stts_jax.training.optimizer import is_trained
from stts_jax.training.step import TrainState
from stts_jax.training.stop import in_background

OPTIMIZER = "optimizer"
SPIKES = "spikes"
BEST = "best.json"
_CLOSE_SECONDS = 5.0


@dataclass(frozen=True)
class Progress:
    """The part of a run's state that is saved as JSON.

    Attributes:
      step: updates so far.
      seconds: by bucket of `Clock`, over all resumptions.
      data: state of each part of the data stream, see `DataParts`.
      data_settings: that `data` was read with, None in older checkpoints. They are not those of
        `config.json` if a run was resumed with other settings and killed before it saved.
      train_settings: that the last step was trained with, None in older checkpoints.
    """

    step: int
    seconds: dict[str, float]
    data: list[Any]
    data_settings: dict[str, Any] | None = None
    train_settings: dict[str, Any] | None = None

    @staticmethod
    def of(metadata: Mapping[str, Any]) -> Progress:
        """Returns it from a checkpoint's metadata; old ones have only the seconds of steps."""
        seconds = metadata["seconds"]
        seconds = dict(seconds) if isinstance(seconds, Mapping) else {"step": seconds}
        settings = (metadata.get(name) for name in ("data_settings", "train_settings"))
        return Progress(metadata["step"], seconds, list(metadata["data"]), *settings)


class Checkpoints:
    """Writes the checkpoints of a run, in the background; keeps the newest few and the best.

    A context manager, which waits at its end for the checkpoint that is being written.

    Args:
      output: folder of the run.
      keep: how many of the newest.
      data: settings that the run's data are read with, see `Progress`.
      train: settings that its steps are trained with.
    """

    def __init__(
        self, output: Path, keep: int, data: DataConfig, train: TrainConfig | None = None
    ) -> None:
        policies = ocp.training.preservation_policies
        self.folder = output.resolve() / CHECKPOINTS
        self._data_settings = dataclasses.asdict(data)
        self._train = train
        self._train_settings = None if train is None else dataclasses.asdict(train)
        require_writable(output)
        self._best = _Best(self.folder)
        _delete_unfinished(output)
        self._failed = False
        self._checkpointer = ocp.training.Checkpointer(
            self.folder,
            preservation_policy=policies.AnyPreservationPolicy(
                [policies.LatestN(keep), self._best]
            ),
            # In a bucket it would delete damaged steps too, see `_delete_unfinished`.
            cleanup_tmp_directories=not is_bucket(output),
        )

    @property
    def best(self) -> dict[str, Any] | None:
        """`step` and the score, by its name, of the best checkpoint, if one was marked."""
        return self._best.mark

    def save(
        self, state: TrainState, step: int, seconds: Mapping[str, float], data: Mapping[int, Any]
    ) -> None:
        """Starts to write a checkpoint; the next step may have the state donated at once.

        Args:
          state: to save.
          step: updates so far.
          seconds: see `Progress`.
          data: JSON-compatible states of the parts of the data that this process reads.
        """
        self.wait()
        data_of_all = _gather_data(data)
        settings = (self._data_settings, self._train_settings)
        progress = Progress(step, dict(seconds), data_of_all, *settings)
        with self._explained(), in_blocks():
            self._delete_damaged(step)
            self._checkpointer.save_checkpointables_async(
                step,
                checkpointables_of(state, self._train),
                force=True,
                overwrite=True,
                custom_metadata=dataclasses.asdict(progress),
            )

    def _delete_damaged(self, step: int) -> None:
        """Deletes a damaged checkpoint of the step from a bucket, where it could not be moved."""
        if is_bucket(self.folder):
            if is_first() and not is_committed(self.folder / str(step)):
                delete_folder(self.folder / str(step))
            Share.of_this_process().gather(None)

    def mark_best(self, step: int, score: float, name: str = "accuracy") -> None:
        """Keeps the checkpoint of a step, which has been saved, until a better one is marked."""
        self.wait()
        with self._explained():
            self._best.put(step, score, name)

    def wait(self) -> None:
        """Waits until the checkpoint that is being written is complete."""
        with self._explained():
            self._checkpointer.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            with self._explained():
                try:
                    if not self._failed:
                        self._checkpointer.wait()
                finally:
                    self._close()
        except CheckpointError as failure:
            if error is None:
                raise
            if str(failure) != str(error):
                notice(str(failure))  # the error from before is the one that is raised

    def _close(self) -> None:
        """Closes Orbax's checkpointer; after a failure it would wait for minutes, and is left."""
        if not self._failed:
            self._checkpointer.close()
            return
        with suppress(TimeoutError):
            in_background(self._checkpointer.close).exception(timeout=_CLOSE_SECONDS)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Raises any error of the block as a `CheckpointError`."""
        try:
            yield
        # TensorStore, which writes the arrays, reports a full disk as a ValueError or its like.
        except Exception as error:
            self._failed = True
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise CheckpointError(
                f"the checkpoint in '{self.folder}' cannot be written: {reason}; make room or "
                "choose another folder"
            ) from error


def _delete_unfinished(output: Path) -> None:
    """Deletes what killed saves have left in a bucket, but for steps that are named as damaged."""
    if is_bucket(output):
        if is_first():
            for step in unfinished_steps(output):
                if not (output / DAMAGED / f"{step}.json").is_file():
                    delete_folder(output / CHECKPOINTS / str(step))
        Share.of_this_process().gather(None)


class _Best:
    """A preservation policy of Orbax that keeps the best checkpoint; a file beside it names it."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / BEST
        mark = _read_mark(self._file)
        # Its checkpoint may be gone, or be after the step that the run was resumed from.
        self.mark = mark if mark and (folder / str(mark["step"])).is_dir() else None

    def put(self, step: int, score: float, name: str) -> None:
        self.mark = {"step": step, name: score}
        if is_first():
            write_whole(self._file, json.dumps(self.mark) + "\n")

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Returns whether to keep each checkpoint; see Orbax's `PreservationPolicy`."""
        return [self.mark is not None and c.step == self.mark["step"] for c in checkpoints]


def _read_mark(file: Path) -> dict[str, Any] | None:
    """Returns the mark; None without a file, or if a crash of the machine has left it empty."""
    try:
        return json.loads(file.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def require_room(output: Path, state: TrainState, config: TrainConfig) -> None:
    """Raises a `CheckpointError` if the disk has no room for the checkpoints to come.

    Args:
      output: folder of the run, which exists.
      state: to save, abstract or not.
      config: how many are kept.
    """
    saved = jax.tree.leaves((checkpointables_of(state, config), state.step))
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in saved)
    # Checkpoints that are there are taken to be of the same size; they are deleted in time.
    missing = max(_most_at_once(config) - len(checkpoint_steps(output)), 1)
    if is_bucket(output):
        return  # has no end
    free = shutil.disk_usage(output).free
    if free < missing * size:
        count = "one more is" if missing == 1 else f"{missing} more are"
        raise CheckpointError(
            f"the disk of '{output}' has {free / 1e9:.2f} GB left, but a checkpoint takes "
            f"{size / 1e9:.2f} GB and {count} to be written before any is deleted; make room, "
            "lower train.keep_checkpoints or choose another --output"
        )


def _most_at_once(config: TrainConfig) -> int:
    """Returns how many checkpoints exist at most: the oldest goes after the next is written."""
    kept = config.keep_checkpoints + bool(config.keep_best and config.evaluate_every)
    # What is evaluated is saved before.
    intervals = (config.save_every, config.evaluate_every)
    saves = sum(config.steps // every for every in intervals if every) + 1
    return min(kept + 1, saves)


def checkpointables_of(
    state: TrainState, train: TrainConfig | None = None
) -> dict[str, dict[str, Any]]:
    """Returns the arrays of a state by part of the checkpoint and dotted name.

    Args:
      state: of a run.
      train: settings of the run; frozen parameters are left out if they are in another checkpoint.
    """
    parameters = named_parameters(state.model)
    if train is not None and train.has_base:
        parameters = {name: leaf for name, leaf in parameters.items() if is_trained(name, train)}
    parts = {MODEL: parameters, OPTIMIZER: named_parameters(state.optimizer)}
    return parts if state.spikes is None else parts | {SPIKES: named_parameters(state.spikes)}


def _gather_data(data: Mapping[int, Any]) -> list[Any]:
    """Returns the states of all parts of the data, in order, from all processes."""
    found = dict(chain.from_iterable(Share.of_this_process().gather(list(data.items()))))
    return [found[part] for part in sorted(found)]
