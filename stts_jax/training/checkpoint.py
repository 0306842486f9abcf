"""What lies in the folder of a run, and models from it: to evaluate, to ask, to fine-tune.

`OUTPUT/config.json` is the run's config, `OUTPUT/checkpoints/STEP` a checkpoint: parameters by
dotted name in `model` and, if a run goes on from it, what `run_checkpoints` adds. Orbax writes to
a temporary folder and renames it when all is there, so a folder named after a step is complete.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from orbax.checkpoint import v1 as ocp

from stts_jax.config import Config, load_config
from stts_jax.model.video_language_model import (
    VideoLanguageModel,
    abstract_model,
    in_compute_dtype,
)
from stts_jax.parallel.mesh import make_mesh, parameter_shardings
from stts_jax.parallel.parameters import named_parameters
from stts_jax.plain_files import FileError, read_json_object, require_plain_tree, require_within
from stts_jax.quoting import shorten
from stts_jax.training.damage import is_damage, reason_of
from stts_jax.training.stored_arrays import open_arrays

CHECKPOINTS = "checkpoints"
MODEL = "model"
# What Orbax writes last into a step's folder.
COMPLETE = "_CHECKPOINT_METADATA"
_COMMITTED = "commit_timestamp_nsecs"
_SCORER = "scorer."
_LISTED = 50  # more parameters than a model has


class CheckpointError(RuntimeError):
    """A file of a run that can't be written or read; the message says what to do."""


def find_checkpoint(folder: Path) -> Path:
    """The newest checkpoint of a run, or the folder itself if it is one.

    Args:
      folder: of a run, its `checkpoints`, or one step in there.

    Raises:
      CheckpointError: if there is none, it lacks files, its last file was cut, or one of its files
        is none or lies elsewhere.
    """
    checkpoint = locate_checkpoint(folder)
    with reading(checkpoint):
        require_sound(checkpoint)
    return checkpoint


def require_sound(checkpoint: Path) -> None:
    """Raises a `FileError` if a save was not finished, or a file of a checkpoint is not its own."""
    require_plain_tree(checkpoint)
    if type(read_json_object(checkpoint / COMPLETE).get(_COMMITTED)) is not int:
        raise FileError(f"'{COMPLETE}' doesn't say when the checkpoint was finished")


def locate_checkpoint(folder: Path) -> Path:
    """As `find_checkpoint`, without a look into its files; a resumed run moves damaged ones."""
    folder = folder.resolve()
    if (folder / MODEL).is_dir():
        if not _is_complete(folder):
            raise _damaged(folder, f"'{COMPLETE}' is missing")
        return folder
    output = folder.parent if folder.name == CHECKPOINTS else folder
    steps = checkpoint_steps(output)
    if not steps:
        lacking = incomplete_steps(output)
        raise CheckpointError(
            f"there is no checkpoint in '{folder}'"
            + (
                f" but that of step {lacking[-1]}, of which files are missing; copy it again"
                if lacking
                else "; give the --output folder of a training run or of a conversion"
            )
        )
    return output / CHECKPOINTS / str(steps[-1])


def identity_of(folder: Path) -> dict[str, Any]:
    """What tells a checkpoint from all others, also from one that is written in its place later.

    Raises:
      CheckpointError: if there is none, or it is damaged.
    """
    checkpoint = find_checkpoint(folder)
    with reading(checkpoint):
        saved = read_json_object(checkpoint / COMPLETE)[_COMMITTED]
    return {"path": str(checkpoint), "saved_ns": saved}


def config_of(folder: Path) -> Config:
    """The config of the run that a checkpoint is from.

    Raises:
      CheckpointError: if there is no checkpoint or no `config.json` with it.
    """
    checkpoint = locate_checkpoint(folder)
    for place in (checkpoint, *checkpoint.parents[:2]):
        path = place / "config.json"
        if path.exists():
            with reading(checkpoint):
                read_json_object(require_within(path, place))
            return load_config(str(path))
    raise CheckpointError(
        f"there is no config.json with checkpoint '{checkpoint}'; copy that of the run to "
        f"'{checkpoint.parents[1]}'"
    )


def load_model(
    folder: Path, config: Config | None = None, mesh: Mesh | None = None
) -> tuple[VideoLanguageModel, Config]:
    """The model of a run's newest (or of a given) checkpoint; optimiser state isn't read.

    Args:
      folder: see `find_checkpoint`.
      config: to build the model with, by default that of the run. One that needs no scorer
        leaves out the checkpoint's.
      mesh: to place it on, by default all devices, a copy on each.

    Raises:
      CheckpointError: if there is none, it is damaged, or its arrays are not those of the model.
    """
    return _load_model(folder, config, mesh, lambda shapes: shapes)


def load_to_answer(
    folder: Path, config: Config | None = None, mesh: Mesh | None = None
) -> tuple[VideoLanguageModel, Config]:
    """As `load_model`, in the types that answers are computed in; see `in_compute_dtype`."""
    return _load_model(folder, config, mesh, in_compute_dtype)


def _load_model(
    folder: Path,
    config: Config | None,
    mesh: Mesh | None,
    typed: Callable[[VideoLanguageModel], VideoLanguageModel],
) -> tuple[VideoLanguageModel, Config]:
    checkpoint = find_checkpoint(Path(folder))
    config = config or config_of(checkpoint)
    abstract = typed(_placed_shapes(config, mesh or make_mesh()))
    wanted = named_parameters(abstract)
    saved = _saved_parameters(checkpoint)
    if config.model.prune.method != "scorer":
        saved = {name: array for name, array in saved.items() if not name.startswith(_SCORER)}
    require_match(wanted, saved, checkpoint)
    return renamed(abstract, _load(checkpoint, wanted)), config


def initialize_from(
    model: VideoLanguageModel, folder: Path, notice: Callable[[str], None] = print
) -> VideoLanguageModel:
    """A model with the parameters of a checkpoint, to start a fine-tune from.

    A scorer that the checkpoint lacks stays as it is in `model`, and `notice` is told; a scorer
    that the model lacks is left out. All else must match.

    Args:
      model: freshly made, placed as wanted.
      folder: see `find_checkpoint`.
      notice: takes a line of text.

    Raises:
      CheckpointError: if there is none, it is damaged, or with the list of all that doesn't match.
    """
    checkpoint = find_checkpoint(Path(folder))
    parameters = named_parameters(model)
    saved = _saved_parameters(checkpoint)
    wanted = {
        name: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)
        for name, array in parameters.items()
    }
    for has, lacks, what in (
        (wanted, saved, "has no scorer; a new one is initialised"),
        (saved, wanted, "has a scorer that this model doesn't use; it is left out"),
    ):
        scorer = [name for name in has if name.startswith(_SCORER)]
        if scorer and not any(name.startswith(_SCORER) for name in lacks):
            notice(f"checkpoint '{checkpoint}' {what}")
            for name in scorer:
                del has[name]
    require_match(wanted, saved, checkpoint)
    return renamed(model, parameters | _load(checkpoint, wanted))


def save_model(model: VideoLanguageModel, config: Config, output: Path, step: int = 0) -> Path:
    """Write a model that no run trained, so that all that reads a run's folder can read it.

    Returns:
      Folder of the checkpoint, in `output`.
    """
    require_writable(output)
    config.save(output)
    folder = output.resolve() / CHECKPOINTS / str(step)
    ocp.save_checkpointables(folder, {MODEL: named_parameters(model)}, overwrite=True)
    return folder


def require_writable(output: Path) -> None:
    """Make the folder of a run, or say why it can't be."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        # Without a name: several processes try at the same time.
        with tempfile.TemporaryFile(dir=output):
            pass
    except OSError as error:
        raise CheckpointError(
            f"folder '{output}' cannot be written: {error.strerror}; choose another one"
        ) from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say in one sentence that a file of a run can't be written, as on a disk that is full."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"'{path}' cannot be written: {error.strerror or error}; make room or choose another "
            "--output"
        ) from error


@contextmanager
def reading(checkpoint: Path) -> Iterator[None]:
    """Say in one sentence why a checkpoint can't be read, whatever a reader makes of its files."""
    try:
        yield
    except Exception as error:
        # The first cause says most, but not which file it is about.
        reason = str(error) if isinstance(error, FileError) else reason_of(error)
        if is_damage(error):
            raise _damaged(checkpoint, reason) from error
        raise CheckpointError(
            f"checkpoint '{checkpoint}' cannot be read, for a reason that isn't its files' "
            f"({reason}); free memory, or give access to files that can be read, and start again"
        ) from error


def _damaged(checkpoint: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"checkpoint '{checkpoint}' is damaged or incomplete ({reason}); copy it again"
    )


def checkpoint_steps(output: Path) -> list[int]:
    """Steps of the complete checkpoints of a run, ascending; none if there is no such folder."""
    return [int(p.name) for p in _step_folders(output) if _is_complete(p)]


def incomplete_steps(output: Path) -> list[int]:
    """Steps of checkpoints that have lost files since they were written, ascending."""
    return [int(p.name) for p in _step_folders(output) if not _is_complete(p)]


def renamed(abstract: Any, arrays: dict[str, Any]) -> Any:
    """Arrays by dotted name, in the structure that the names are from."""
    leaves = [arrays[name] for name in named_parameters(abstract)]
    return jax.tree.unflatten(jax.tree.structure(abstract), leaves)


def mismatches(wanted: dict[str, Any], saved: dict[str, Any]) -> list[str]:
    """What is missing, of another shape, or too much in `saved`; one phrase each."""
    problems = [f"{shorten(name)} is missing" for name in wanted if name not in saved]
    problems += [
        f"'{name}' has shape {tuple(saved[name].shape)} instead of {tuple(array.shape)}"
        for name, array in wanted.items()
        if name in saved and tuple(saved[name].shape) != tuple(array.shape)
    ]
    return problems + [f"{shorten(name)} is too much" for name in saved if name not in wanted]


def require_match(wanted: dict[str, Any], saved: dict[str, Any], folder: Path) -> None:
    """Raise a `CheckpointError` that lists all mismatches."""
    problems = mismatches(wanted, saved)
    if problems:
        more = len(problems) - _LISTED
        raise CheckpointError(
            f"checkpoint '{folder}' doesn't fit this setup: {'; '.join(problems[:_LISTED])}"
            + (f"; and {more} more" if more > 0 else "")
            + "; use the config.json that lies with it"
        )


def differing_keys(ours: Any, theirs: Any, path: str) -> list[str]:
    """Dotted keys of two configs of one class that differ, with both values."""
    if dataclasses.is_dataclass(ours) and dataclasses.is_dataclass(theirs):
        pairs = (
            (getattr(ours, f.name), getattr(theirs, f.name), f"{path}.{f.name}")
            for f in dataclasses.fields(ours)
        )
        return [key for pair in pairs for key in differing_keys(*pair)]
    return [] if ours == theirs else [f"{path}={ours} (saved: {theirs})"]


def _placed_shapes(config: Config, mesh: Mesh) -> VideoLanguageModel:
    shapes = abstract_model(config.model)
    return jax.tree.map(
        lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding),
        shapes,
        parameter_shardings(shapes, mesh),
    )


def _saved_parameters(checkpoint: Path) -> dict[str, Any]:
    """The saved parameters by name, of which the shapes are known and nothing is read yet."""
    with reading(checkpoint):
        return open_arrays(checkpoint / MODEL)


def _load(checkpoint: Path, wanted: dict[str, Any]) -> dict[str, jax.Array]:
    """Read the arrays in `wanted` only."""
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    with context, reading(checkpoint):
        return ocp.load_checkpointables(checkpoint, {MODEL: wanted})[MODEL]


def _step_folders(output: Path) -> list[Path]:
    """In order; what a save that was killed has left is named otherwise."""
    folder = output / CHECKPOINTS
    if not folder.is_dir():
        return []
    found = (p for p in folder.iterdir() if p.name.isdigit() and p.is_dir())
    return sorted(found, key=lambda path: int(path.name))


def _is_complete(folder: Path) -> bool:
    return (folder / COMPLETE).is_file() and (folder / MODEL).is_dir()
