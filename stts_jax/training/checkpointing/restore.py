"""Restores the newest checkpoint of a run that can be read; damaged ones are moved, not deleted.

In a bucket nothing can be moved: a file in `damaged` names the step, and without its commit file
the step counts no longer. Nothing is moved for an error that is no damage, see `checkpoint_errors`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from stts_jax.buckets.address import is_bucket
from stts_jax.buckets.whole_files import COMMITTED
from stts_jax.parallel.processes import Share, is_first
from stts_jax.training.checkpointing.checkpoint_errors import (
    CheckpointError,
    is_damage,
    reason_of,
    writing,
)
from stts_jax.training.checkpointing.load import require_match, unflatten_named
from stts_jax.training.checkpointing.parameter_loading import load_parameters
from stts_jax.training.checkpointing.run_folder import (
    CHECKPOINTS,
    DAMAGED,
    MODEL,
    checkpoint_steps,
    incomplete_steps,
    require_sound,
)
from stts_jax.training.checkpointing.save import OPTIMIZER, SPIKES, Progress, checkpointables_of
from stts_jax.training.checkpointing.stored_arrays import open_arrays
from stts_jax.training.step import TrainState


def restore_latest(
    output: Path,
    abstract: TrainState,
    notice: Callable[[str], None] = print,
    frozen: Mapping[str, jax.Array] | None = None,
) -> tuple[TrainState, Progress] | None:
    """Returns the newest checkpoint that can be read, sharded; None if there is none.

    A damaged one is reported and moved to `output/damaged`, and the one before it is read.

    Args:
      output: folder of the run.
      abstract: shapes and shardings of the state, see `step.abstract_state`.
      notice: takes a line of text.
      frozen: parameters that the run's checkpoints don't have, by name.

    Raises:
      CheckpointError: if its arrays are not those of `abstract`, if it can't be read without being
        damaged (nothing is moved then), or if all of them are damaged.
    """
    steps = checkpoint_steps(output)
    for step in reversed(steps):
        folder = output.resolve() / CHECKPOINTS / str(step)
        found: tuple[TrainState, Progress] | None = None
        reason, other_reason = "another process cannot read it", ""
        try:
            found = _restore(folder, step, abstract, frozen or {})
        except CheckpointError:
            raise
        except Exception as error:  # readers raise errors of any kind on damaged files
            reason = reason_of(error)
            other_reason = "" if is_damage(error) else reason
        of_all = Share.of_this_process().gather([found is not None, other_reason])
        if all(read for read, _ in of_all):
            return found
        _require_all_damage(folder, [other for _, other in of_all if other])
        if is_first():
            _move_damaged(output, folder, reason, notice)
        _wait_for_all(f"damaged {step}")
    if steps:
        raise _all_damaged(output)
    return None


def move_incomplete(output: Path, notice: Callable[[str], None] = print) -> None:
    """Moves incomplete checkpoints that are newer than all complete ones to `output/damaged`.

    Older ones were being deleted when a run was killed.
    """
    if is_first():
        newest = max(checkpoint_steps(output), default=-1)
        for step in incomplete_steps(output):
            if step > newest:
                folder = output.resolve() / CHECKPOINTS / str(step)
                _move_damaged(output, folder, "files are missing", notice)
    _wait_for_all("incomplete checkpoints")


def require_none_damaged(output: Path) -> None:
    """Raises a `CheckpointError` if damaged checkpoints were moved, for a run that has no other."""
    folder = output / DAMAGED
    if folder.is_dir() and any(folder.iterdir()):
        raise _all_damaged(output)


def _all_damaged(output: Path) -> CheckpointError:
    return CheckpointError(
        f"every checkpoint in '{output / CHECKPOINTS}' is damaged; they were moved to "
        f"'{output / DAMAGED}', start a new run with --no-resume or choose another --output"
    )


def _restore(
    folder: Path, step: int, abstract: TrainState, frozen: Mapping[str, jax.Array]
) -> tuple[TrainState, Progress]:
    # Checked here since Orbax doesn't say why this file, or a part's metadata, can't be read.
    require_sound(folder)
    saved = ocp.checkpointables_metadata(folder)
    wanted = checkpointables_of(abstract)
    wanted[MODEL] = {n: leaf for n, leaf in wanted[MODEL].items() if n not in frozen}
    initial = {}
    if abstract.spikes is not None and not (folder / SPIKES).is_dir():
        # The run began without `train.skip_loss_spikes`: its means start now.
        initial[SPIKES] = jax.tree.map(
            lambda leaf: jax.device_put(np.zeros(leaf.shape, leaf.dtype), leaf.sharding),
            wanted.pop(SPIKES),
        )
    arrays = {part: _read(folder, part, leaves) for part, leaves in wanted.items()} | initial
    spikes = abstract.spikes and unflatten_named(abstract.spikes, arrays[SPIKES])
    state = TrainState(
        model=unflatten_named(abstract.model, {**frozen, **arrays[MODEL]}),
        optimizer=unflatten_named(abstract.optimizer, arrays[OPTIMIZER]),
        step=jax.device_put(np.int32(step), abstract.step.sharding),
        spikes=spikes,
    )
    return state, Progress.of(saved.custom_metadata)


def _read(folder: Path, part: str, wanted: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, Any]:
    """Reads a part of a checkpoint; each array is held once."""
    stored = open_arrays(folder / part)
    require_match(wanted, stored, folder)
    return load_parameters(stored, wanted, f"reading {part}")


def _require_all_damage(folder: Path, other_reasons: list[str]) -> None:
    if other_reasons:
        raise CheckpointError(
            f"checkpoint '{folder}' cannot be read, for a reason that isn't its files' "
            f"({other_reasons[0]}), so nothing is moved; give the run more memory, or a "
            "file store that answers, and start again"
        )


def _move_damaged(output: Path, folder: Path, reason: str, notice: Callable[[str], None]) -> None:
    if is_bucket(output):
        _name_damaged(output, folder, reason, notice)
        return
    target = _unused_name(output.resolve() / DAMAGED, folder.name)
    notice(f"checkpoint '{folder}' is damaged ({reason}); it is moved to '{target}'")
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(target)


def _name_damaged(output: Path, folder: Path, reason: str, notice: Callable[[str], None]) -> None:
    named = output / DAMAGED / f"{folder.name}.json"
    notice(
        f"checkpoint '{folder}' is damaged ({reason}); it counts no longer, '{named}' names it, "
        f"and its files stay until step {folder.name} is saved again"
    )
    named.write_text(json.dumps({"step": int(folder.name), "reason": reason}) + "\n")
    (folder / COMMITTED).unlink(missing_ok=True)


def _unused_name(damaged: Path, name: str) -> Path:
    """Returns a path in `damaged`, also if an earlier checkpoint of the same step is there."""
    names = (name if number == 1 else f"{name}-{number}" for number in count(1))
    return next(damaged / name for name in names if not (damaged / name).exists())


def _wait_for_all(what: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)
