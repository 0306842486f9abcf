"""Finds and names the files in the folder of a run.

`OUTPUT/config.json` is the run's config, `OUTPUT/checkpoints/STEP` a checkpoint: parameters by
dotted name in `model` and, if a run can resume from it, what `save` adds. Orbax writes to a
temporary folder and renames it at the end, so a folder named after a step is complete. In a bucket
it is written where it stays, and is complete when its `commit_success.txt` is there.
"""

from __future__ import annotations

import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from stts_jax.buckets.address import is_bucket
from stts_jax.buckets.whole_files import COMMITTED
from stts_jax.config import Config, load_config
from stts_jax.parallel.processes import Share, is_first
from stts_jax.plain_files import FileError, read_json_object, require_plain_tree, require_within
from stts_jax.training.checkpointing.checkpoint_errors import (
    CheckpointError,
    damaged_error,
    reading,
    writing,
)

CHECKPOINTS = "checkpoints"
MODEL = "model"
DAMAGED = "damaged"
CONFIG = "config.json"
# The file that Orbax writes last into a step's folder.
COMPLETE = "_CHECKPOINT_METADATA"
_TIME = "commit_timestamp_nsecs"
# A file store may show a new file to other hosts some time later.
_SEEN_SECONDS = 10.0


def find_checkpoint(folder: Path) -> Path:
    """Returns the newest checkpoint of a run, or the folder itself if it is one.

    Args:
      folder: of a run, its `checkpoints`, or one step in there.

    Raises:
      CheckpointError: if there is none, files are missing, the last file was cut, or a path in it
        is no file or leads out of it.
    """
    checkpoint = locate_checkpoint(folder)
    with reading(checkpoint):
        require_sound(checkpoint)
    return checkpoint


def require_sound(checkpoint: Path) -> None:
    """Raises a `FileError` if a save was not finished, or a path leads out of the checkpoint."""
    require_plain_tree(checkpoint)
    if type(read_json_object(checkpoint / COMPLETE).get(_TIME)) is not int:
        raise FileError(f"'{COMPLETE}' doesn't say when the checkpoint was finished")


def locate_checkpoint(folder: Path) -> Path:
    """Returns the path of `find_checkpoint` without reading files; a resumed run moves damaged."""
    folder = folder.resolve()
    if (folder / MODEL).is_dir():
        if not _is_complete(folder):
            raise damaged_error(folder, f"{' or '.join(map(repr, _files_of(folder)))} is missing")
        return folder
    output = folder.parent if folder.name == CHECKPOINTS else folder
    steps = checkpoint_steps(output)
    if not steps:
        incomplete = incomplete_steps(output)
        raise CheckpointError(
            f"there is no checkpoint in '{folder}'"
            + (
                f" but that of step {incomplete[-1]}, of which files are missing; copy it again"
                if incomplete
                else "; give the --output folder of a training run or of a conversion"
            )
        )
    return output / CHECKPOINTS / str(steps[-1])


def identity_of(folder: Path) -> dict[str, Any]:
    """Returns path and time of a checkpoint, which no other one has, nor a later one at the path.

    Raises:
      CheckpointError: if there is none, or it is damaged.
    """
    checkpoint = find_checkpoint(folder)
    with reading(checkpoint):
        saved = read_json_object(checkpoint / COMPLETE)[_TIME]
    return {"path": str(checkpoint), "saved_ns": saved}


def config_of(folder: Path) -> Config:
    """Returns the config of the run that wrote a checkpoint.

    Raises:
      CheckpointError: if there is no checkpoint or no `config.json` with it.
    """
    checkpoint = locate_checkpoint(folder)
    for parent in (checkpoint, *checkpoint.parents[:2]):
        path = parent / CONFIG
        if path.exists():
            with reading(checkpoint):
                read_json_object(require_within(path, parent))
            return load_config(str(path))
    raise CheckpointError(
        f"there is no config.json with checkpoint '{checkpoint}'; copy that of the run to "
        f"'{checkpoint.parents[1]}'"
    )


def save_config(config: Config, output: Path) -> None:
    """Replaces `config.json` at once: a run killed meanwhile leaves the old one or the new one."""
    file = output / CONFIG
    if is_bucket(output):
        config.save(output)
        return
    with (
        writing(file),
        tempfile.TemporaryDirectory(dir=output, prefix=".config-") as folder,
    ):
        config.save(Path(folder))
        (Path(folder) / CONFIG).replace(file)


def require_writable(output: Path) -> None:
    """Makes the folder of a run; raises a `CheckpointError` if nothing can be written there."""
    if is_bucket(output):
        _require_bucket_writable(output)
        return
    checkpoints = output / CHECKPOINTS
    if checkpoints.exists() and not checkpoints.is_dir():
        raise CheckpointError(
            f"'{checkpoints}' is a file, but checkpoints go into a folder of that name; move it "
            "away or choose another --output"
        )
    try:
        output.mkdir(parents=True, exist_ok=True)
        # Without a name: several processes try at the same time.
        with tempfile.TemporaryFile(dir=output):
            pass
    except OSError as error:
        raise CheckpointError(
            f"folder '{output}' cannot be written: {error.strerror}; choose another one"
        ) from error


def _require_bucket_writable(output: Path) -> None:
    """Writes and deletes a file: a run must be allowed to do both."""
    tried = output / f".writable-{uuid.uuid4().hex}"
    try:
        tried.write_bytes(b"")
        tried.unlink()
    except FileNotFoundError as error:
        raise CheckpointError(
            f"folder '{output}' cannot be written: there is no such bucket; make it or choose "
            "another one"
        ) from error


def require_shared(output: Path) -> None:
    """Raises a `CheckpointError` if `output`, which exists, is not one folder for all processes.

    They would only find out at the first save, and wait for each other for ever.
    """
    share = Share.of_this_process()
    if share.count == 1:
        return
    token = output / f".seen-by-all-{uuid.uuid4().hex}"
    try:
        if is_first():
            with writing(token):
                token.touch()
        seen = share.gather(_appears(output / share.gather(token.name)[0]))
    finally:
        if is_first():
            token.unlink(missing_ok=True)
    if not all(seen):
        raise CheckpointError(
            f"--output '{output}' is not the same folder for all processes: number "
            f"{seen.index(False)} does not see what number 0 writes there; choose one that all "
            "hosts share"
        )


def _appears(file: Path) -> bool:
    end = time.monotonic() + _SEEN_SECONDS
    while not file.exists():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def checkpoint_steps(output: Path) -> list[int]:
    """Returns the steps of a run's complete checkpoints, ascending; empty without a folder."""
    return [int(p.name) for p in _step_folders(output) if _is_complete(p)]


def incomplete_steps(output: Path) -> list[int]:
    """Returns the steps of checkpoints that have lost files since they were written, ascending."""
    return [int(p.name) for p in _step_folders(output) if is_committed(p) and not _is_complete(p)]


def unfinished_steps(output: Path) -> list[int]:
    """Returns the steps of saves that were not finished, or no longer count, in a bucket."""
    return [int(p.name) for p in _step_folders(output) if not is_committed(p)]


def is_committed(folder: Path) -> bool:
    """Returns whether a save into the folder of a step was finished."""
    return not is_bucket(folder) or (folder / COMMITTED).is_file()


def _step_folders(output: Path) -> list[Path]:
    """Returns the folders of steps, ascending; those of unfinished saves have other names."""
    folder = output / CHECKPOINTS
    if not folder.is_dir():
        return []
    found = (p for p in folder.iterdir() if p.name.isdigit() and (is_bucket(p) or p.is_dir()))
    return sorted(found, key=lambda path: int(path.name))


def _is_complete(folder: Path) -> bool:
    if is_bucket(folder):  # one request, not three
        return {*_files_of(folder), MODEL} <= {path.name for path in folder.iterdir()}
    return (folder / COMPLETE).is_file() and (folder / MODEL).is_dir()


def _files_of(folder: Path) -> tuple[str, ...]:
    return (COMPLETE, COMMITTED) if is_bucket(folder) else (COMPLETE,)
