"""Files in the user's cache that are made of data."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def cache_file(name: str | Path, ending: str) -> Path:
    """Returns where a file made of the data of a name is."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    hashed = hashlib.sha256(os.fsencode(name)).hexdigest()[:24]
    return cache / "stts_jax" / "indexes" / f"{hashed}.{ending}"
