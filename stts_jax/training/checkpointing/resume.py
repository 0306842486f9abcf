"""Resumes a run from its newest checkpoint, or begins a new one in its folder.

The order, so that all that can be refused is refused before anything large is made or deleted:

1. Hold the folder: make it, see that all processes share it, take its lock (`hold_run`).
2. Refuse a batch that memory can't hold, and a tracker that isn't installed.
3. Move incomplete checkpoints that are newer than all complete ones to `OUTPUT/damaged`. If one
   is complete, the run is resumed; if all were damaged, it is refused.
4. Compare the settings: a resumed run must have its model and the optimizer's arrays; the
   checkpoint that a new run is initialised from must not be among those that it deletes, and a
   run that trains a part of a model must have one to take the rest from.
5. See that the disk has room for the checkpoints to come, and memory for the state.
6. Restore the newest checkpoint that can be read; damaged ones are moved to `OUTPUT/damaged`.
7. Print what changes in the updates.
8. Open the data and restore their position, unless their settings or content changed.
9. Write `config.json`, and `base.json` for a run that doesn't save all of its model.
10. Remove lines of `metrics.jsonl` beyond the checkpoint, and add up the time (`run.train`).

A new run, in place of 6 to 8, opens the data at the beginning, initialises the state or reads its
parameters from another checkpoint, and then deletes the checkpoints in its folder.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from stts_jax.buckets.whole_files import delete_folder
from stts_jax.budget import row_budget
from stts_jax.config import Config
from stts_jax.data.packing.batch_memory import require_batch_fits
from stts_jax.data.pipeline import TrainingBatches
from stts_jax.output_lock import LOCK, LockedError, OutputLock, hold_output
from stts_jax.parallel.parameters import key_of_seed
from stts_jax.parallel.processes import Share, is_first, notice
from stts_jax.terminal import doing
from stts_jax.train_ratios import RatioDraw, at_ratio, step_budget
from stts_jax.training.checkpointing.adapted_start import (
    adapted_state,
    frozen_of_run,
    open_start,
    require_start,
)
from stts_jax.training.checkpointing.base import save_base
from stts_jax.training.checkpointing.checkpoint_errors import CheckpointError, writing
from stts_jax.training.checkpointing.load import initialize_from
from stts_jax.training.checkpointing.restore import (
    move_incomplete,
    require_none_damaged,
    restore_latest,
)
from stts_jax.training.checkpointing.resumed_data import open_new_data, open_resumed_data
from stts_jax.training.checkpointing.run_folder import (
    CHECKPOINTS,
    checkpoint_steps,
    find_checkpoint,
    incomplete_steps,
    require_shared,
    require_writable,
    save_config,
)
from stts_jax.training.checkpointing.save import Progress, require_room
from stts_jax.training.checkpointing.settings_changes import (
    data_changes,
    require_same_run,
    schedule_lines,
    trained_with,
)
from stts_jax.training.clock import time_line
from stts_jax.training.data_parts import DataParts
from stts_jax.training.distributed import Agreement
from stts_jax.training.run_memory import require_run_fits
from stts_jax.training.step import TrainState, abstract_state
from stts_jax.training.trackers import require_trackers


@contextmanager
def hold_run(output: Path) -> Iterator[OutputLock | None]:
    """Makes the folder of a run and holds it, as one holder for all processes of the run.

    Yields:
      the lock in the first process, None in the others.

    Raises:
      CheckpointError: if the folder can't be written, isn't shared by the processes, or is held by
        another run that is alive.
    """
    require_writable(output)
    require_shared(output)
    with ExitStack() as stack:
        agreement, lock, problem = Agreement(), None, ""
        if is_first():
            try:
                with writing(output / LOCK):
                    lock = stack.enter_context(hold_output(output, "training", notice))
            except (LockedError, CheckpointError) as error:
                problem = str(error)
        agreement.meet("lock")  # it may have taken minutes to see that a holder is dead
        problem = Share.of_this_process().gather(problem)[0]
        if problem:
            raise CheckpointError(problem)
        yield lock


def resume_or_begin(
    config: Config,
    output: Path,
    mesh: Mesh,
    stack: ExitStack,
    *,
    init_from: Path | None,
    base: Path | None,
    resume: bool,
    data_dir: Path | None,
    open_data: Callable[..., TrainingBatches],
    init_state: Callable[[Config, Mesh, jax.Array], TrainState],
) -> tuple[TrainState, Progress, DataParts]:
    """Returns the state of a run, its progress, and its data at their position.

    Args:
      config: of the run; it is written to `output`.
      output: folder of the run, held with `hold_run`.
      mesh: that state and batches are sharded over.
      stack: closes the data.
      init_from: folder of a run or checkpoint whose parameters a new run starts from.
      base: of the adapters in `init_from`, or of those of the run, if it isn't where it was.
      resume: go on from the newest checkpoint in `output`, if any; otherwise they are deleted.
      data_dir: of the procedural set.
      open_data: opens one part of the data stream, see `training_batches`.
      init_state: makes the state of a new run.

    Raises:
      CheckpointError, ConfigError: in the cases of steps 2 to 6.
    """
    first_step = 0

    def open_part(part: int, count: int) -> TrainingBatches:
        options: dict[str, Any] = {} if data_dir is None else {"folder": Path(data_dir)}
        if config.model.prune.train_ratios:
            options["first_step"] = first_step
        return open_data(config, process_index=part, process_count=count, **options)

    # Step 2.
    rows = -(-config.data.batch_rows // jax.process_count())
    budget = row_budget(config.model, config.data)
    require_batch_fits(budget, config.model, rows, "lower data.batch_rows or data.row_frames")
    require_trackers(config)
    # Steps 3 and 4.
    saved = start = None
    if resume and _has_complete_checkpoint(output):
        saved = require_same_run(config, output)
    else:
        require_start(config, init_from)
        if init_from is not None:
            _require_apart(init_from, output)
            start = open_start(init_from, base) if config.train.has_base else None
    # Step 5.
    abstract = abstract_state(config, mesh)
    require_room(output, abstract, config.train)
    largest = at_ratio(config, RatioDraw.of(config).lowest)
    budget = step_budget(config, largest.model.prune.topk)
    notice("memory: at least " + require_run_fits(abstract, largest, mesh, budget))
    # Steps 6 to 8.
    if saved is not None:
        frozen = frozen_of_run(config, abstract, output, base, init_from)
        state, progress = _restore(output, abstract, init_from, frozen)
        first_step = progress.step
        before = trained_with(saved, progress)
        for line in schedule_lines(config.train, before.train, progress.step):
            notice(line)
        changes = data_changes(config.data, before.data)
        batches = open_resumed_data(config, mesh, stack, open_part, progress.data, changes)
    else:
        batches = open_new_data(config, mesh, stack, open_part)
        key = key_of_seed(config.train.seed)
        with doing(f"making the parameters on {_devices(mesh)}", notice):
            if start is not None:
                state = adapted_state(config, mesh, key, start, notice)
            else:
                state = init_state(config, mesh, key)
            jax.block_until_ready(state)
        if init_from is not None:
            if start is None:
                model = initialize_from(state.model, init_from, notice, base)
                state = dataclasses.replace(state, model=model)
            notice(f"starting from the parameters in '{init_from}'")
        _delete_checkpoints(output)
        progress = Progress(step=0, seconds={}, data=[])
    # Step 9.
    if is_first():
        save_config(config, output)
        if saved is None:
            save_base(start.base if start is not None else None, output)
    return state, progress, batches


def _has_complete_checkpoint(output: Path) -> bool:
    move_incomplete(output, notice)
    if checkpoint_steps(output):
        return True
    require_none_damaged(output)
    return False


def _require_apart(init_from: Path, output: Path) -> None:
    """Raises a `CheckpointError` if a new run would delete the checkpoint that it starts from."""
    source = find_checkpoint(init_from).resolve()
    if source.is_relative_to((output / CHECKPOINTS).resolve()):
        raise CheckpointError(
            f"--init-from '{init_from}' lies in --output '{output}', whose checkpoints a new run "
            "deletes; choose another --output"
        )


def _restore(
    output: Path,
    abstract: TrainState,
    init_from: Path | None,
    frozen: Mapping[str, jax.Array],
) -> tuple[TrainState, Progress]:
    with doing(f"reading the newest checkpoint of '{output}'", notice):
        restored = restore_latest(output, abstract, notice, frozen)
    assert restored is not None
    state, progress = restored
    notice(f"resuming '{output}' at step {progress.step}; {time_line(progress.seconds)}")
    if init_from is not None:
        notice(f"'{init_from}' isn't read, as the run in '{output}' goes on")
    return state, progress


def _devices(mesh: Mesh) -> str:
    kind = mesh.devices.flat[0].device_kind
    return f"{mesh.size} device{'s' if mesh.size > 1 else ''} ({kind})"


def _delete_checkpoints(output: Path) -> None:
    """Deletes those of an earlier run: a later start would resume from one that is left."""
    left = False
    if is_first():
        delete_folder(output / CHECKPOINTS)
        left = bool(checkpoint_steps(output) or incomplete_steps(output))
    if Share.of_this_process().gather(left)[0]:
        raise CheckpointError(
            f"the checkpoints in '{output / CHECKPOINTS}' cannot be deleted, so a new run cannot "
            "start there; delete them yourself or choose another --output"
        )
