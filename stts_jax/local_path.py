"""Folders that options name."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def local_path(text: str) -> Path:
    """The type of an option that names a folder; `Path` would make a folder `gs:` of an address."""
    if _ADDRESS.match(text):
        raise argparse.ArgumentTypeError(
            f"'{text}' is an address, and only folders are read and written; mount it (a bucket "
            "with gcsfuse, for example) and name the folder"
        )
    return Path(text)
