"""Where the recorded reference cases are."""

from __future__ import annotations

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared"
CARRIED_DATA = REPOSITORY / "tests" / "goldens_data"


def goldens_dir() -> Path:
    """Model cases: the folder that STTS_GOLDENS names, else the full set beside us, else ours."""
    return _folder("STTS_GOLDENS", "goldens")


def goldens_data_dir() -> Path:
    """Preprocessing cases, in the same way by STTS_GOLDENS_DATA."""
    return _folder("STTS_GOLDENS_DATA", "goldens_data")


def _folder(variable: str, name: str) -> Path:
    named = os.environ.get(variable)
    if named:
        folder = Path(named)
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{variable} is '{named}', which is no folder; correct it or unset it"
            )
        return folder
    beside = SHARED / name
    return beside if beside.is_dir() else REPOSITORY / "tests" / name
