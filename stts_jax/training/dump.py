"""Writes and reads the dump of a step whose loss is not finite, which `replay` repeats."""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from stts_jax.batch import Batch
from stts_jax.config import Config, load_config
from stts_jax.training.checkpointing.checkpoint_errors import CheckpointError
from stts_jax.training.data_parts import local_rows

DUMPS = "dumps"
_FACTS = "step.json"
_ROWS = "row_numbers"
# Errors of reading a file that is cut short.
_CUT_SHORT = (ValueError, EOFError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Dump:
    """A step whose loss, gradient or update is not finite.

    Attributes:
      step: its number, 1 for the first.
      seed: `train.seed`; the step's randomness is this seed's key folded with `step - 1`.
      fingerprint: of this process's part of the batch.
      checkpoint: the run's newest one before the step, None if there was none.
      metrics: of the step, not finite ones as text.
      init_from: what the run was initialised from, if it had no checkpoint of its own.
      mesh: devices along each axis of the run's mesh, None in older dumps.
    """

    step: int
    seed: int
    fingerprint: str
    checkpoint: str | None
    metrics: dict[str, float | str]
    init_from: str | None = None
    mesh: dict[str, int] | None = None


def fingerprint(batch: Batch) -> str:
    """Returns 12 hex digits of the hash of a batch."""
    digest = hashlib.sha256()
    for name, values in sorted(batch.to_arrays().items()):
        array = np.ascontiguousarray(values)
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:12]


def write_dump(
    output: Path,
    config: Config,
    mesh: Mesh,
    step: int,
    batch: Batch,
    metrics: Mapping[str, float],
    checkpoint: Path | None,
    init_from: Path | None = None,
) -> Path:
    """Writes a step's batch, config and seed; every process writes its rows, the first the rest.

    Returns:
      `output/dumps/step-STEP`.
    """
    folder = output / DUMPS / f"step-{step}"
    folder.mkdir(parents=True, exist_ok=True)
    index, count = jax.process_index(), jax.process_count()
    arrays: dict[str, Any] = {
        **batch.to_arrays(),
        _ROWS: local_rows(config.data.batch_rows, mesh),
    }
    with (folder / f"batch-{index}-of-{count}.npz").open("wb") as file:
        np.savez(file, **arrays)
    if index == 0:
        config.save(folder)
        values = {n: v if math.isfinite(v) else str(v) for n, v in metrics.items()}
        at, source = (None if path is None else str(path) for path in (checkpoint, init_from))
        dump = Dump(
            step, config.train.seed, fingerprint(batch), at, values, source, dict(mesh.shape)
        )
        (folder / _FACTS).write_text(json.dumps(asdict(dump), indent=2) + "\n")
    return folder


def read_dump(folder: Path) -> tuple[Dump, Config, Batch]:
    """Returns what `write_dump` wrote, with the rows of all processes.

    Raises:
      FileNotFoundError: if the folder holds no dump, or not that of every process.
      CheckpointError: if one of its files is cut short.
    """
    if not (folder / _FACTS).is_file():
        raise FileNotFoundError(
            f"there is no dump in '{folder}'; give a folder of OUTPUT/{DUMPS}, step-120 for example"
        )
    files = sorted(folder.glob("batch-*-of-*.npz"), key=lambda path: int(path.stem.split("-")[1]))
    count = int(files[0].stem.split("-")[-1]) if files else 1
    if len(files) != count:
        raise FileNotFoundError(
            f"'{folder}' has the rows of {len(files)} of {count} processes; copy the others' files "
            "there"
        )
    batch = Batch.from_arrays(_joined([_read(file) for file in files]))
    return _facts(folder / _FACTS), load_config(str(folder / "config.json")), batch


def _facts(file: Path) -> Dump:
    try:
        return Dump(**json.loads(file.read_text()))
    except ValueError as error:
        raise _damaged(file) from error


def _read(file: Path) -> dict[str, np.ndarray]:
    try:
        with file.open("rb") as opened, np.load(opened) as arrays:
            return dict(arrays)
    except _CUT_SHORT as error:
        raise _damaged(file) from error


def _damaged(file: Path) -> CheckpointError:
    return CheckpointError(
        f"'{file}' is cut short, as after a kill or on a full disk, so this step cannot be replayed"
    )


def _joined(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Returns the rows of all processes in order, each once."""
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if _ROWS not in whole:
        return whole  # an older dump
    _, first = np.unique(whole.pop(_ROWS), return_index=True)
    return {name: array[first] for name, array in whole.items()}
