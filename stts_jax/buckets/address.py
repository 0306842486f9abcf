"""Tells addresses of buckets from paths of this machine, and opens either.

What reads a bucket is imported when an address is opened. A path of this machine is a
`pathlib.Path` as ever; that of a bucket has the same methods (`bucket_path.BucketPath`).
"""

from __future__ import annotations

import importlib.util
import os
import posixpath
import re
from pathlib import Path, PurePath
from typing import cast

from stts_jax.buckets.errors import BucketError

GS = "gs://"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")  # "C://" may be a folder of Windows
_NEEDED = "gcsfs"


def is_address(text: str | os.PathLike[str]) -> bool:
    """Returns whether a text is an address, `gs://bucket/folder` for example, and no path."""
    return _SCHEME.match(os.fspath(text)) is not None


def is_bucket(path: PurePath) -> bool:
    """Returns whether a path that `path_of` has opened is in a bucket."""
    return str(path).startswith(GS)


def path_of(text: str | os.PathLike[str]) -> Path:
    """Returns the path of a folder or file, on this machine or in a bucket.

    Raises:
      BucketError: for an address that is not of a bucket of Google Cloud Storage, or if the
        libraries of the extra `gcs` aren't installed.
    """
    if isinstance(text, PurePath):
        return cast(Path, text)  # opened before
    text = os.fspath(text)
    if not is_address(text):
        return Path(text)
    require_known(text)
    from stts_jax.buckets.bucket_path import BucketPath

    return cast(Path, BucketPath(text))


def joined(folder: Path, named: str) -> Path:
    """Returns the path of a file that is named relative to a folder, or by a whole path or address.

    `..` is resolved in a bucket, which knows no such folder.
    """
    if is_address(named) or named.startswith("/"):
        return path_of(named)
    if not is_bucket(folder):
        return folder / named
    bucket, _, key = str(folder).removeprefix(GS).partition("/")
    inside = posixpath.normpath(posixpath.join("/", key, named)).lstrip("/")
    return path_of(f"{GS}{bucket}/{inside}")


def require_known(address: str) -> None:
    """Raises a `BucketError` for an address that can't be opened here; see `path_of`."""
    if not address.startswith(GS):
        scheme = address.partition("://")[0]
        raise BucketError(
            address,
            "opened",
            f"{scheme}:// is no store that is read here",
            "copy it to a bucket of Google Cloud Storage (gs://bucket/folder) or to a folder, or "
            "mount it and name the folder",
        )
    if not address.removeprefix(GS).partition("/")[0]:
        raise BucketError(address, "opened", "it names no bucket", "write gs://BUCKET/FOLDER")
    if importlib.util.find_spec(_NEEDED) is None:
        raise BucketError(
            address,
            "opened",
            f"{_NEEDED} is not installed",
            "install it with `pip install 'stts-jax[gcs]'`",
        )
