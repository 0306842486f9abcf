"""Files that are there whole or not at all, on disks and, untried, on buckets.

On a disk a file is written under another name and renamed. On a bucket it appears when it is
closed, and there is no renaming.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
from collections.abc import Callable

from etils import epath

from stts_jax.data.datasets.base import DatasetError


def folder_at(address: str) -> epath.Path:
    """Returns the folder of a path or an address.

    Raises:
      DatasetError: if what reads such addresses is not installed.
    """
    folder = epath.Path(address)
    try:
        folder.exists()
    except ImportError as error:
        raise DatasetError(
            f"'{address}' is the address of a bucket, and what reads it is not there ({error}); "
            "install that, or name a folder"
        ) from error
    return folder


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
        write(str(path))
        return _measured(path)
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
