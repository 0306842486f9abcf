"""Going on from the newest sound checkpoint of a run; damaged ones are kept aside.

Only damage moves files, see `damage`.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from stts_jax.parallel.processes import Share, is_first
from stts_jax.training.checkpoint import (
    CHECKPOINTS,
    MODEL,
    CheckpointError,
    checkpoint_steps,
    incomplete_steps,
    renamed,
    require_match,
    require_sound,
    writing,
)
from stts_jax.training.damage import is_damage, reason_of
from stts_jax.training.run_checkpoints import OPTIMIZER, SPIKES, Progress, parts_of
from stts_jax.training.step import TrainState

DAMAGED = "damaged"


def restore_latest(
    output: Path, abstract: TrainState, notice: Callable[[str], None] = print
) -> tuple[TrainState, Progress] | None:
    """The newest checkpoint that can be read, straight onto its devices; None if there is none.

    One that is damaged is reported, moved to `output/damaged`, and the one before is taken.

    Args:
      output: folder of the run.
      abstract: shapes and shardings, see `step.abstract_state`.
      notice: takes a line of text.

    Raises:
      CheckpointError: if its arrays are not those of `abstract`, if something else than damage
        keeps it from being read (nothing is moved then), or if all of them are damaged.
    """
    steps = checkpoint_steps(output)
    for step in reversed(steps):
        folder = output.resolve() / CHECKPOINTS / str(step)
        found: tuple[TrainState, Progress] | None = None
        damage, trouble = "another process cannot read it", ""
        try:
            found = _restore(folder, step, abstract)
        except CheckpointError:
            raise
        except Exception as error:  # whatever a reader makes of a file that isn't what it was
            damage = reason_of(error)
            trouble = "" if is_damage(error) else damage
        everywhere = Share.of_this_process().gather([found is not None, trouble])
        if all(read for read, _ in everywhere):
            return found
        _require_no_trouble(folder, [trouble for _, trouble in everywhere if trouble])
        if is_first():
            _set_aside(output, folder, damage, notice)
        _meet(f"damaged {step}")
    if steps:
        raise _all_damaged(output)
    return None


def set_incomplete_aside(output: Path, notice: Callable[[str], None] = print) -> None:
    """Report checkpoints that lack files and are newer than all that don't; move them too.

    Older ones are what is left where a run was killed while it deleted them.
    """
    if is_first():
        newest = max(checkpoint_steps(output), default=-1)
        for step in incomplete_steps(output):
            if step > newest:
                folder = output.resolve() / CHECKPOINTS / str(step)
                _set_aside(output, folder, "files are missing", notice)
    _meet("incomplete checkpoints")


def require_none_damaged(output: Path) -> None:
    """Raise a `CheckpointError` if damaged checkpoints were set aside, so that none is left."""
    folder = output / DAMAGED
    if folder.is_dir() and any(folder.iterdir()):
        raise _all_damaged(output)


def _all_damaged(output: Path) -> CheckpointError:
    return CheckpointError(
        f"every checkpoint in '{output / CHECKPOINTS}' is damaged; they were moved to "
        f"'{output / DAMAGED}', start anew with --no-resume or choose another --output"
    )


def _restore(folder: Path, step: int, abstract: TrainState) -> tuple[TrainState, Progress]:
    # Orbax keeps to itself why this file, or the metadata of a part, can't be read.
    require_sound(folder)
    saved = ocp.checkpointables_metadata(folder)
    wanted = parts_of(abstract)
    fresh = {}
    if abstract.spikes is not None and not (folder / SPIKES).is_dir():
        # The run began without this option: its means start now.
        fresh[SPIKES] = jax.tree.map(
            lambda leaf: jax.device_put(np.zeros(leaf.shape, leaf.dtype), leaf.sharding),
            wanted.pop(SPIKES),
        )
    for part, arrays in wanted.items():
        if saved.metadata.get(part):  # otherwise loading says what is wrong
            require_match(arrays, saved.metadata[part], folder)
    arrays = ocp.load_checkpointables(folder, wanted) | fresh
    spikes = abstract.spikes and renamed(abstract.spikes, arrays[SPIKES])
    state = TrainState(
        model=renamed(abstract.model, arrays[MODEL]),
        optimizer=renamed(abstract.optimizer, arrays[OPTIMIZER]),
        step=jax.device_put(np.int32(step), abstract.step.sharding),
        spikes=spikes,
    )
    return state, Progress.of(saved.custom_metadata)


def _require_no_trouble(folder: Path, troubles: list[str]) -> None:
    if troubles:
        raise CheckpointError(
            f"checkpoint '{folder}' cannot be read, for a reason that isn't its files' "
            f"({troubles[0]}), so nothing is moved; give the run more memory, or a file store that "
            "answers, and start again"
        )


def _set_aside(output: Path, folder: Path, reason: str, notice: Callable[[str], None]) -> None:
    aside = _free_place(output.resolve() / DAMAGED, folder.name)
    notice(f"checkpoint '{folder}' is damaged ({reason}); it is moved to '{aside}'")
    with writing(aside):
        aside.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(aside)


def _free_place(damaged: Path, name: str) -> Path:
    """An earlier one of the same step stays."""
    names = (name if number == 1 else f"{name}-{number}" for number in count(1))
    return next(damaged / name for name in names if not (damaged / name).exists())


def _meet(what: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)
