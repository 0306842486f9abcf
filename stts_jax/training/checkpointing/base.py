"""Names the checkpoint of a run's base: the model whose frozen parameters the run doesn't save.

`OUTPUT/base.json` has its path and a fingerprint of its parameters.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from stts_jax.buckets.address import path_of
from stts_jax.buckets.whole_files import write_whole
from stts_jax.plain_files import read_json_object
from stts_jax.training.checkpointing.checkpoint_errors import CheckpointError, reading, writing
from stts_jax.training.checkpointing.run_folder import find_checkpoint

BASE = "base.json"
# Values at the beginning and at the end of each parameter that a fingerprint is made of.
_SAMPLE = 64
_SCORER = "scorer."


@dataclass(frozen=True)
class Base:
    """The base of a run.

    Attributes:
      path: of its checkpoint.
      fingerprint: see `fingerprint_of`.
    """

    path: str
    fingerprint: str


def recorded_base(checkpoint: Path) -> Base | None:
    """Returns the base that is recorded with a checkpoint; None for a whole model."""
    for folder in (checkpoint, *checkpoint.parents[:2]):
        file = folder / BASE
        if file.exists():
            with reading(checkpoint):
                found = read_json_object(file)
                return Base(str(found["path"]), str(found["fingerprint"]))
    return None


def save_base(base: Base | None, output: Path) -> None:
    """Writes `base.json` to the folder of a run, or replaces it at once; None removes it."""
    if base is None:
        (output / BASE).unlink(missing_ok=True)
        return
    file = output / BASE
    with writing(file):
        write_whole(file, json.dumps(dataclasses.asdict(base), indent=2) + "\n")


def find_base(checkpoint: Path, recorded: Base, given: Path | None) -> Path:
    """Returns the checkpoint of a base: the one that is given, or else where it was.

    Raises:
      CheckpointError: if there is none.
    """
    if given is not None:
        return find_checkpoint(given)
    try:
        return find_checkpoint(path_of(recorded.path))
    except CheckpointError as error:
        raise CheckpointError(
            f"'{checkpoint}' holds adapters alone, and their base '{recorded.path}' cannot be read "
            f"({error}); name the base's folder where it is now, and this one with --adapter"
        ) from error


def require_base(base: Path, recorded: Base, arrays: Mapping[str, Any], checkpoint: Path) -> None:
    """Raises a `CheckpointError` if a base is another model than the one that was recorded.

    Args:
      base: its checkpoint.
      recorded: with the adapters.
      arrays: of the base.
      checkpoint: of the adapters.
    """
    with reading(base):
        found = fingerprint_of(arrays)
    if found != recorded.fingerprint:
        raise CheckpointError(
            f"the parameters in '{base}' (fingerprint {found}) are not those that '{checkpoint}' "
            f"was trained from ({recorded.fingerprint}, then in '{recorded.path}'); name the "
            "folder of that model"
        )


def fingerprint_of(arrays: Mapping[str, Any]) -> str:
    """Returns 16 hexadecimal digits from names, shapes and some values of a model's parameters.

    Values are rounded to bfloat16, so that copies of a model in either type have one fingerprint.
    The scorer doesn't count: a run may bring its own.

    Args:
      arrays: TensorStore's handles by dotted name.
    """
    parts = {}
    for name in sorted(arrays):
        if not name.startswith(_SCORER):
            array, size = arrays[name], arrays[name].shape[-1]
            first = array[tuple(0 for _ in array.shape[:-1])]
            last = array[tuple(side - 1 for side in array.shape[:-1])]
            ends = (first[: min(_SAMPLE, size)], last[max(size - _SAMPLE, 0) :])
            parts[name] = [end.read() for end in ends]
    digest = hashlib.sha256()
    for name, reads in parts.items():
        digest.update(f"{name} {tuple(arrays[name].shape)}".encode())
        for read in reads:
            values = np.asarray(read.result()).astype(ml_dtypes.bfloat16)
            digest.update(values.view(np.uint16).astype("<u2").tobytes())
    return digest.hexdigest()[:16]
