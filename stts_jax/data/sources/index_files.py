"""Where files that are made of a user's data are, and that one process at a time makes them."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from stts_jax.data.cache_files import cache_file

logger = logging.getLogger(__name__)

_WAIT_SECONDS = 0.2


def files_for(path: Path, ending: str) -> tuple[Path, Path]:
    """Returns where a file made of `path` may be: beside it, or in the user's cache."""
    path = path.absolute()  # of "." the name of the folder
    return path.parent / f"{path.name}.{ending}", cache_file(path, ending)


def content_hash(path: Path) -> str:
    """Returns the SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def locked(folder: Path, path: Path) -> Iterator[None]:
    """Waits until no other process works in a folder, which is made and may be gone after it.

    Args:
      folder: of the work.
      path: of the data, to say what is waited for.

    Raises:
      OSError: if the folder can't be made, or its disk has no locks.
    """
    said = False
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = (folder / "lock").open("ab")
        except FileNotFoundError:  # another process has just cleared it away
            continue
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not said:
                    logger.info("another process reads '%s' for its index; waiting for it", path)
                said = True
                time.sleep(_WAIT_SECONDS)
                continue
            if _is_at(lock, folder / "lock"):
                yield
                return


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
