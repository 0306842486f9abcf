"""Lets commands take a PyTorch checkpoint where they take one of ours: converted once, and kept."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from convert.adapters import import_adapter, is_peft
from convert.pipeline import convert, plan
from convert.sources import Options, is_foreign, open_source


def local_checkpoint(folder: Path, notice: Callable[[str], None] = print) -> Path:
    """`folder` itself if it is ours (or none that is known), else a converted copy of it.

    Copies are under `~/.cache/stts_jax/converted` (or another XDG_CACHE_HOME), one for
    each state of the folder's files.

    Args:
      folder: of a checkpoint, in any form that `python -m convert` reads.
      notice: takes a line of text.

    Raises:
      ConvertError: if it can't be converted.
    """
    if not folder.is_dir() or not is_foreign(folder):
        return folder
    copy = cached_copy(folder, "converted")
    if copy.is_dir():
        notice(f"'{folder}' was converted before: using '{copy}'")
        return copy
    planned = plan(open_source(folder, Options()))
    notice(f"'{folder}' is a checkpoint of another form ({planned.source.kind}); ")
    notice(f"converting it once, into '{copy}'")
    for note in planned.notes:
        notice(f"  {note}")
    convert(planned, copy, warn=notice)
    return copy


def local_adapter(folder: Path, base: Path, notice: Callable[[str], None] = print) -> Path:
    """`folder` itself if it is a run's, else (PEFT's) a converted copy of it, see above.

    Args:
      folder: of adapters.
      base: of their model, one of ours.
      notice: takes a line of text.

    Raises:
      ConvertError: if it can't be converted, or doesn't fit the base.
    """
    if not folder.is_dir() or not is_peft(folder):
        return folder
    copy = cached_copy(folder, "converted", base)
    if not copy.is_dir():
        notice(f"'{folder}' is an adapter of PEFT; converting it once, into '{copy}'")
        import_adapter(folder, copy, base)
    return copy


# Raised when conversions give other results than before: older copies are not used then.
_VERSION = 2


def cached_copy(folder: Path, kind: str, base: Path | None = None) -> Path:
    """Returns the folder for copies of a kind, of this state of a checkpoint's files.

    Args:
      folder: of the checkpoint.
      kind: of the copies.
      base: of an adapter.
    """
    root = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return root / "stts_jax" / kind / f"{folder.resolve().name}-{_state(folder, base)}"


def _state(folder: Path, base: Path | None) -> str:
    """Changes when a file of the folder does, or with the base of an adapter."""
    lines = [f"{_VERSION} {folder.resolve()}"]
    lines += [] if base is None else [str(base.resolve())]
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        about = path.stat()
        lines.append(f"{path.relative_to(folder)} {about.st_size} {about.st_mtime_ns}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]
