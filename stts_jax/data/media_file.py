"""Checks a file before a decoder opens it, and names it for FFmpeg."""

from __future__ import annotations

import stat
from pathlib import Path

# Reading these may wait for ever, or never end.
NO_FILES = {
    stat.S_IFIFO: "a pipe (fifo)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def require_content(path: Path, what: str, error: type[ValueError]) -> None:
    """Refuse what is not a file with content.

    Args:
      path: to look at.
      what: it should be, for the message.
      error: what to raise.
    """
    try:
        if path.is_dir():
            raise error(f"'{path}' is a folder; give the path of {what}")
        if not path.is_file():
            raise error(_not_a_file(path, what))
        if path.stat().st_size == 0:
            raise error(f"'{path}' is empty; copy or download it again")
    except OSError as failure:  # of its folder's permissions, its name, or its share
        raise error(
            f"'{path}' cannot be looked at: {failure.strerror}; check its name, its permissions "
            "and the disk or share that it is on"
        ) from failure


def _not_a_file(path: Path, what: str) -> str:
    if not path.exists():
        return f"'{path}' does not exist; check the path"
    kind = NO_FILES.get(stat.S_IFMT(path.stat().st_mode), "not a file")
    return f"'{path}' is {kind}; give the path of {what}"


def ffmpeg_name(path: str | Path) -> str:
    """Returns a file's name as FFmpeg's libraries take it, for reading and writing.

    They take what is before a colon for a protocol, as in `12:30:05.mp4` or `pipe:0`, unless a
    slash comes first.
    """
    return str(Path(path).absolute())
