"""Files that processes map into memory to write them."""

from __future__ import annotations

import os
from pathlib import Path


def take_room(path: Path) -> None:
    """Takes the room of a whole file on its disk, before anything is written through a map.

    A file that only has its size takes room as its pages are written, and where the disk is full
    by then, a process that writes through a map is killed by a signal.

    Raises:
      OSError: if there is not that much room.
    """
    if hasattr(os, "posix_fallocate"):  # macOS lacks it
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, file.seek(0, os.SEEK_END))
