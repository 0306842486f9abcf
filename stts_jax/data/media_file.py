"""Whether there is anything to read in a file, before a decoder is asked."""

from __future__ import annotations

from pathlib import Path


def require_content(path: Path, what: str, error: type[ValueError]) -> None:
    """Refuse what is no file with content.

    Args:
      path: to look at.
      what: it should be, for the message.
      error: what to raise.
    """
    try:
        if path.is_dir():
            raise error(f"'{path}' is a folder; give the path of {what}")
        if not path.is_file():
            raise error(f"'{path}' does not exist; check the path")
        if path.stat().st_size == 0:
            raise error(f"'{path}' is empty; copy or download it again")
    except OSError as failure:  # of its folder's permissions, its name, or the share it lies on
        raise error(
            f"'{path}' cannot be looked at: {failure.strerror}; check its name, its permissions "
            "and the disk or share that it lies on"
        ) from failure
