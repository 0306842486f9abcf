"""Refuses users' files that are no regular files, such as named pipes, before they are opened."""

from __future__ import annotations

import re
import stat
from pathlib import Path

from stts_jax.buckets.address import is_bucket
from stts_jax.data.datasets.looked_at import note

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe, which may never end"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
# As `Path` shortens "https://".
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def require_regular_file(path: Path, what: str, error: type[ValueError]) -> None:
    """Refuse what is not a file that is there; nothing is opened.

    Args:
      path: of the file.
      what: it should be, for the message.
      error: to raise.
    """
    note(path)
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as failure:  # ValueError: of a zero character
        if _ADDRESS.match(str(path)) and not is_bucket(path):
            raise error(
                f"'{path}' is an address, and addresses other than gs:// are not fetched; download "
                "the file and give its path"
            ) from failure
        if isinstance(failure, FileNotFoundError | NotADirectoryError):
            raise error(f"'{path}' does not exist; check the path") from failure
        reason = getattr(failure, "strerror", None) or failure
        raise error(f"'{path}' cannot be read: {reason}; check the path") from failure
    for is_kind, kind in _KINDS:
        if is_kind(mode):
            raise error(f"'{path}' is {kind}; give the path of {what}")
