"""What a run starts from: a checkpoint of its own, the parameters of another one, or nothing."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from stts_jax.budget import row_budget
from stts_jax.config import Config, DataConfig, TrainConfig, replace
from stts_jax.data.packing.batch_memory import require_batch_fits
from stts_jax.data.pipeline import TrainingBatches
from stts_jax.output_lock import LOCK, LockedError, OutputLock, hold_output
from stts_jax.parallel.parameters import key_of_seed
from stts_jax.parallel.processes import Share, is_first, notice
from stts_jax.terminal import doing
from stts_jax.training.checkpoint import (
    CHECKPOINTS,
    CheckpointError,
    checkpoint_steps,
    config_of,
    differing_keys,
    find_checkpoint,
    incomplete_steps,
    initialize_from,
    require_writable,
    writing,
)
from stts_jax.training.clock import time_line
from stts_jax.training.data_parts import DataParts, natural_parts
from stts_jax.training.distributed import Agreement, require_shared
from stts_jax.training.restore import (
    require_none_damaged,
    restore_latest,
    set_incomplete_aside,
)
from stts_jax.training.run_checkpoints import Progress, require_room
from stts_jax.training.run_parts import RunParts
from stts_jax.training.schedule_change import schedule_lines
from stts_jax.training.step import TrainState, abstract_state
from stts_jax.training.trackers import require_trackers

OpenPart = Callable[[int, int], TrainingBatches]
# Settings that may differ from those of the run that is resumed.
_FREE_MODEL_KEYS = ("model.compute_dtype", "model.remat")
_FREE_DATA_KEYS = (
    *("data.validation", "data.test"),
    *("data.cache_frames", "data.max_bad_share", "data.workers"),
)
# Settings that decide which arrays the optimizer has.
_FIXED_TRAIN_KEYS = ("train.optimizer", "train.freeze_base_embedding")


def start(
    config: Config,
    output: Path,
    mesh: Mesh,
    stack: ExitStack,
    *,
    init_from: Path | None,
    resume: bool,
    data_dir: Path | None,
    parts: RunParts,
) -> tuple[TrainState, Progress, DataParts]:
    """The state to go on from, how far the run is, and its data at that place.

    All that can be refused is refused before anything large is made: a full disk, settings that
    contradict the run in it, a tracker that isn't installed.

    Args:
      config: of the run; it is written to `output`.
      output: folder of the run, see `hold_run`.
      mesh: that state and batches lie on.
      stack: closes the data.
      init_from: folder of a run or checkpoint whose parameters to start from; for a new run not
        one in `output`.
      resume: go on from the newest checkpoint in `output`, if any; otherwise they are deleted.
      data_dir: of the procedural set.
      parts: make the data and the state of a new run.

    Raises:
      CheckpointError, ConfigError: in the cases above.
    """
    rows = -(-config.data.batch_rows // jax.process_count())
    budget = row_budget(config.model, config.data)
    require_batch_fits(budget, config.model, rows, "lower data.batch_rows or data.row_frames")
    _require_no_file(output / CHECKPOINTS)
    require_trackers(config)
    if resume:
        set_incomplete_aside(output, notice)
    resumes = resume and bool(checkpoint_steps(output))
    if resume and not resumes:
        require_none_damaged(output)
    saved = _require_same_run(config, output) if resumes else None
    if init_from is not None and not resumes:
        _require_apart(init_from, output)
    open_part = _opener(config, data_dir, parts)
    abstract = abstract_state(config, mesh)
    require_room(output, abstract, config.train)
    if saved is not None:
        state, progress = _resumed(output, abstract, init_from)
        for line in schedule_lines(config.train, _train_settings(progress, saved), progress.step):
            notice(line)
        read_with = _data_settings(progress, saved)
        other_data = _differing(config.data, read_with, "data", _FREE_DATA_KEYS)
        batches = _resumed_data(config, mesh, stack, progress, other_data, open_part)
    else:
        batches = _new_data(config, mesh, stack, open_part)
        state = _fresh(config, mesh, init_from, parts)
        _remove_checkpoints(output)
        progress = Progress(step=0, seconds={}, data=[])
    if is_first():
        save_config(config, output)
    return state, progress, batches


@contextmanager
def hold_run(output: Path) -> Iterator[OutputLock | None]:
    """Make the folder of a run and hold it, as one holder for all processes of the run.

    Yields:
      the lock in the first process, None in the others.

    Raises:
      CheckpointError: if the folder can't be written, isn't shared by the processes, or another
        run that lives holds it.
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


def save_config(config: Config, output: Path) -> None:
    """Write `config.json` in one go: a run killed meanwhile leaves the old one or the new one."""
    file = output / "config.json"
    with (
        writing(file),
        tempfile.TemporaryDirectory(dir=output, prefix=".config-") as folder,
    ):
        config.save(Path(folder))
        (Path(folder) / "config.json").replace(file)


def _require_no_file(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(
            f"'{folder}' is a file, but checkpoints go into a folder of that name; move it away or "
            "choose another --output"
        )


def _require_same_run(config: Config, output: Path) -> Config:
    """The config of the run in `output`, which must have the same model and optimizer."""
    saved = config_of(output)
    other = _differing(config.model, saved.model, "model", _FREE_MODEL_KEYS)
    if other:
        raise CheckpointError(
            f"'{output}' holds a run of another model, with {', '.join(other)}; set them alike, "
            "choose another --output, or replace that run with --no-resume"
        )
    other = differing_keys(config.train, saved.train, "train")
    other = [text for text in other if text.startswith(_FIXED_TRAIN_KEYS)]
    if other:
        raise CheckpointError(
            f"'{output}' holds a run with another optimizer state, of {', '.join(other)}; set them "
            "alike, or start a new run from its parameters with --init-from and another --output"
        )
    return saved


def _data_settings(progress: Progress, saved: Config) -> DataConfig:
    """Those that the place in the data is of."""
    settings = progress.data_settings
    return saved.data if settings is None else replace(saved, {"data": settings}).data


def _train_settings(progress: Progress, saved: Config) -> TrainConfig:
    """Those that the checkpoint was trained with."""
    settings = progress.train_settings
    return saved.train if settings is None else replace(saved, {"train": settings}).train


def _require_apart(init_from: Path, output: Path) -> None:
    """A fresh run deletes the checkpoints in its folder; the one it starts from must outlive it."""
    source = find_checkpoint(init_from).resolve()
    if source.is_relative_to((output / CHECKPOINTS).resolve()):
        raise CheckpointError(
            f"--init-from '{init_from}' lies in --output '{output}', whose checkpoints a new run "
            "deletes; choose another --output"
        )


def _resumed(
    output: Path, abstract: TrainState, init_from: Path | None
) -> tuple[TrainState, Progress]:
    with doing(f"reading the newest checkpoint of '{output}'", notice):
        restored = restore_latest(output, abstract, notice)
    assert restored is not None
    state, progress = restored
    notice(f"resuming '{output}' at step {progress.step}; {time_line(_filled(progress.seconds))}")
    if init_from is not None:
        notice(f"'{init_from}' isn't read, as the run in '{output}' goes on")
    return state, progress


def _opener(config: Config, data_dir: Path | None, parts: RunParts) -> OpenPart:
    """Returns what opens a part of the data, of so many parts."""
    folder = {} if data_dir is None else {"folder": Path(data_dir)}

    def open_part(part: int, count: int) -> TrainingBatches:
        return parts.open_data(config, process_index=part, process_count=count, **folder)

    return open_part


def _new_data(config: Config, mesh: Mesh, stack: ExitStack, open_part: OpenPart) -> DataParts:
    parts = natural_parts(config.data.batch_rows, mesh)
    with doing(
        f"opening the data, '{config.data.train}', tokenizer '{config.data.tokenizer}'", notice
    ):
        batches = _open(config, mesh, stack, parts, open_part)
    _tell_of_shared(batches)
    return batches


def _tell_of_shared(batches: DataParts) -> None:
    if batches.shared:
        notice(
            "some processes read and decode the same part of the data, as train.mesh gives them "
            "the same rows; keep tensor and context within a host where that is too slow"
        )


def _resumed_data(
    config: Config,
    mesh: Mesh,
    stack: ExitStack,
    progress: Progress,
    other_data: list[str],
    open_part: OpenPart,
) -> DataParts:
    rows = config.data.batch_rows
    if other_data or not progress.data:
        reason = ", ".join(other_data) or "the checkpoint has no place in the data"
        notice(f"the data start anew, as the settings changed: {reason}")
        return _new_data(config, mesh, stack, open_part)
    batches = _open(config, mesh, stack, len(progress.data), open_part)
    if changed := batches.changed_sources(progress.data):
        notice(
            f"the data start anew: {', '.join(changed)} has other content than when the run was "
            "saved; the model goes on"
        )
        _tell_of_shared(batches)
        return batches
    batches.restore(progress.data)
    if len(progress.data) == natural_parts(rows, mesh):
        _tell_of_shared(batches)
    else:
        how = (
            "some processes read the same part and use a share of it"
            if batches.shared
            else ("each process reads several")
        )
        notice(
            f"the data go on exactly where they stood: they were cut into {len(progress.data)} "
            f"parts, and there are {jax.process_count()} processes now, so {how}"
        )
    return batches


def _fresh(config: Config, mesh: Mesh, init_from: Path | None, parts: RunParts) -> TrainState:
    with doing(f"making the parameters on {_devices(mesh)}", notice):
        state = jax.block_until_ready(
            parts.init_state(config, mesh, key_of_seed(config.train.seed))
        )
    if init_from is not None:
        state = dataclasses.replace(state, model=initialize_from(state.model, init_from, notice))
        notice(f"starting from the parameters in '{init_from}'")
    return state


def _devices(mesh: Mesh) -> str:
    kind = mesh.devices.flat[0].device_kind
    return f"{mesh.size} device{'s' if mesh.size > 1 else ''} ({kind})"


def _remove_checkpoints(output: Path) -> None:
    """Delete those of an earlier run; one that stays would be what this run goes on from later."""
    left = False
    if is_first():
        shutil.rmtree(output / CHECKPOINTS, ignore_errors=True)
        left = bool(checkpoint_steps(output) or incomplete_steps(output))
    if Share.of_this_process().gather(left)[0]:
        raise CheckpointError(
            f"the checkpoints in '{output / CHECKPOINTS}' cannot be deleted, so a new run cannot "
            "start there; delete them yourself or choose another --output"
        )


def _open(
    config: Config, mesh: Mesh, stack: ExitStack, parts: int, open_part: OpenPart
) -> DataParts:
    agreement = Agreement()
    if not is_first():
        agreement.meet("data")  # the first process makes the procedural set, if need be
    batches = stack.enter_context(DataParts(open_part, config.data.batch_rows, parts, mesh))
    if is_first():
        agreement.meet("data")
    return batches


def _differing(ours: Any, theirs: Any, path: str, free: tuple[str, ...]) -> list[str]:
    found = differing_keys(ours, theirs, path)
    return [text for text in found if not text.startswith(tuple(f"{key}=" for key in free))]


def _filled(seconds: dict[str, float]) -> dict[str, float]:
    return dict.fromkeys(("compile", "data", "step", "save", "eval"), 0.0) | seconds
