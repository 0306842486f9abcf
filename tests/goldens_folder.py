"""Where the recorded reference cases are."""

from __future__ import annotations

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


def goldens_dir() -> Path:
    """The folder that STTS_GOLDENS names, else the full set beside the repository, else ours."""
    named = os.environ.get("STTS_GOLDENS")
    if named:
        folder = Path(named)
        if not folder.is_dir():
            raise FileNotFoundError(
                f"STTS_GOLDENS is '{named}', which is no folder; correct it or unset it"
            )
        return folder
    beside = REPOSITORY.parent / "shared" / "goldens"
    return beside if beside.is_dir() else REPOSITORY / "tests" / "goldens"
