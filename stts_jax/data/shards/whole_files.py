"""Files that are there whole or not at all, on disks and in buckets.

On a disk a file is written under another name and renamed. To a bucket, which has no renaming, a
file is uploaded when it is whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from etils import epath

from stts_jax.buckets.address import is_address, path_of
from stts_jax.buckets.errors import BucketError
from stts_jax.data.datasets.base import DatasetError


def folder_at(address: str) -> Any:
    """Returns the folder of a path or an address.

    Raises:
      DatasetError: if it is of another store, or what reads a bucket is not installed.
    """
    try:
        return path_of(address) if is_address(address) else epath.Path(address)
    except BucketError as error:
        raise DatasetError(str(error)) from error


def is_local(path: epath.Path) -> bool:
    """Returns whether a path is of a disk, not an address."""
    return "://" not in str(path)


def write_file(path: epath.Path, write: Callable[[str], None]) -> tuple[int, str]:
    """Write a file by `write`, which is given the name to write to.

    Drafts that killed processes of this machine have left of it are removed.

    Returns:
      its bytes, and their SHA-256.
    """
    if not is_local(path):
        with tempfile.TemporaryDirectory(prefix="stts-shard-") as made:
            draft = Path(made) / path.name
            write(str(draft))
            found = _measured(draft)
            path.upload(str(draft))
            return found
    _remove_drafts(path)
    draft = path.with_name(f"{_drafts(path)}{os.getpid()}")
    try:
        write(str(draft))
        found = _measured(draft)
        draft.replace(path)
        return found
    finally:
        draft.unlink(missing_ok=True)


def write_whole(path: epath.Path, text: str) -> None:
    """Write a small file."""

    def write(name: str) -> None:
        epath.Path(name).write_text(text)

    write_file(path, write)


def _measured(path: epath.Path) -> tuple[int, str]:
    hashed, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        if is_local(path):
            os.fsync(file.fileno())
        while block := file.read(1 << 22):
            hashed.update(block)
            size += len(block)
    return size, hashed.hexdigest()


def _drafts(path: epath.Path) -> str:
    """How the names of drafts of this machine begin; they end with the number of the process."""
    return f".{path.name}.{socket.gethostname()}."


def _remove_drafts(path: epath.Path) -> None:
    begin = _drafts(path)
    for draft in path.parent.glob(f"{begin}*"):
        number = draft.name.removeprefix(begin)
        if number.isdigit() and not _runs(int(number)):
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
