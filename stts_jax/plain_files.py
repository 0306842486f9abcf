"""Untrusted files of checkpoints, opened and parsed under limits.

Reading a pipe, a device or a socket would block, a link may lead to any file of this machine, and a
small file may describe more than memory holds. All of these raise a `FileError`, whose message is
one sentence without a remedy, which callers add.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from stts_jax.buckets.address import is_bucket
from stts_jax.quoting import LIMIT, shorten

# Larger than any known file that describes a model or lists names.
MOST_JSON_BYTES = 64 << 20


class FileError(ValueError):
    """A file that can't be used; the message is one sentence, without a remedy."""


def require_plain(path: Path) -> None:
    """Raises a `FileError` unless `path` is a file: no folder, pipe, socket or device."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError, RuntimeError) as error:  # a loop of links, a null letter
        raise FileError(f"'{path}' cannot be opened ({reason(error)})") from error
    if not stat.S_ISREG(mode):
        raise FileError(f"'{path}' is {_kind(mode)} where a file belongs")


def _kind(mode: int) -> str:
    for test, name in (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
    ):
        if test(mode):
            return name
    return "a device"


def require_within(path: Path, folder: Path) -> Path:
    """Returns `path` with links resolved, if that is in `folder`.

    Files of a Hugging Face cache are links from `snapshots/REVISION` to `blobs`; these are fine.

    Raises:
      FileError: if it is elsewhere.
    """
    try:
        real, root = path.resolve(), folder.resolve()
    except (OSError, ValueError, RuntimeError) as error:
        raise FileError(f"'{path}' cannot be opened ({reason(error)})") from error
    if not any(real.is_relative_to(allowed) for allowed in (root, *_blobs(root))):
        raise FileError(f"'{path}' leads out of the checkpoint's folder, to {shorten(real)}")
    return real


def _blobs(root: Path) -> list[Path]:
    """Returns the folder of the files of a Hugging Face cache, if `root` is in a snapshot."""
    return [
        snapshots.parent / "blobs" for snapshots in root.parents if snapshots.name == "snapshots"
    ]


def require_plain_tree(folder: Path) -> None:
    """Raises a `FileError` if anything below `folder` is no file or folder in it."""
    if is_bucket(folder):
        return  # there is nothing else in a bucket
    open_folders = [folder]
    while open_folders:
        with os.scandir(open_folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    open_folders.append(Path(entry.path))
                elif not entry.is_file(follow_symlinks=False):
                    path = Path(entry.path)
                    require_within(path, folder)
                    require_plain(path)


def read_text(path: Path, most: int = MOST_JSON_BYTES) -> str:
    """Returns the text of a file.

    Raises:
      FileError: if it is no file, holds more than `most` bytes, or is not UTF-8.
    """
    require_plain(path)
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
        if len(data) > most:
            raise FileError(f"'{path}' holds more than {most} bytes")
        return data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"'{path}' cannot be read ({reason(error)})") from error


def read_json(path: Path, most: int = MOST_JSON_BYTES) -> Any:
    """Returns the value of a JSON file.

    Raises:
      FileError: if it is no file, too large, not JSON, or a name is twice in one object.
    """
    return parse_json(read_text(path, most), path)


def read_json_object(path: Path, most: int = MOST_JSON_BYTES) -> dict[str, Any]:
    """Returns the object of a JSON file; see `read_json`."""
    found = read_json(path, most)
    if not isinstance(found, dict):
        raise FileError(f"'{path}' holds {shorten(found)} where an object belongs")
    return found


def parse_json(text: str, path: Path) -> Any:
    """Returns the value of JSON text; messages name `path`."""
    return parsed(lambda: json.loads(text, object_pairs_hook=unique_names), path, "JSON")


def parsed(parse: Callable[[], Any], path: Path, form: str) -> Any:
    """Returns `parse()`; raises its errors as a `FileError` that names `path` and the form."""
    try:
        return parse()
    except RecursionError as error:
        raise FileError(f"'{path}' is nested too deeply to be read") from error
    except ValueError as error:
        raise FileError(f"'{path}' is not valid {form} ({reason(error)})") from error


def unique_names(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Returns the object of these pairs, for `json`; ValueError where a name is there twice."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the name {shorten(name)} is there twice")
        found[name] = value
    return found


def reason(error: BaseException) -> str:
    """Returns what an error says: one line, `LIMIT` letters at most."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.strip().splitlines()[0][:LIMIT]
