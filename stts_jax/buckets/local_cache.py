"""Copies of files of buckets on this machine, as many as a number of bytes allows.

Decoders seek in files, and an epoch reads them again. The folder is ~/.cache/stts_jax/buckets, or
STTS_BUCKET_CACHE; it holds STTS_BUCKET_CACHE_GB (20), and those used longest ago are deleted. Files
of lines, which a run keeps open, don't count and stay. A copy is of one generation of a file and is
named when it is whole, so all processes of a machine use one folder, and any of them may be killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import cast

from stts_jax.buckets.address import is_bucket
from stts_jax.buckets.bucket_path import BucketPath, BucketStat

FOLDER, GIGABYTES = "STTS_BUCKET_CACHE", "STTS_BUCKET_CACHE_GB"
_DEFAULT_GIGABYTES = 20.0
# Bytes of a request; several are under way at once.
PIECE = 8 << 20
_THREADS = 8
# Between two looks at what the folder holds, as a share of what it may hold.
_LOOK_AFTER = 0.02
_LEFT_BEHIND = ".part"
# Drafts of killed processes are deleted after these seconds.
_DRAFT_SECONDS = 24 * 3600.0


class LocalCache:
    """One folder of copies; processes may share it."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self.folder, self.most_bytes = folder, most_bytes
        self._stats: dict[str, BucketStat] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()
        self._added = most_bytes  # looks at the folder at the first fetch

    @contextlib.contextmanager
    def opened(self, path: Path) -> Iterator[Path]:
        """Yields the copy of a file, fetched if need be; it isn't deleted in the block.

        Raises:
          FileNotFoundError: if there is no such file.
          BucketError: if it can't be fetched.
        """
        while True:
            copy = self.fetch(path)
            try:
                file = copy.open("rb")
            except FileNotFoundError:  # deleted by another process meanwhile
                continue
            with file:
                fcntl.flock(file, fcntl.LOCK_SH)
                if copy.exists():
                    yield copy
                    return

    def fetch(self, path: Path) -> Path:
        """Returns the path of the copy of a file, fetched if need be; see `opened`."""
        found = self._stat(path)
        copy = self._copy_of(path, found)
        with self._lock_of(copy.name):  # threads that want the same file wait for one of them
            try:
                written = copy.stat().st_mtime_ns
                if self.most_bytes < sys.maxsize:  # indexes go by the times of files that stay
                    os.utime(copy, ns=(time.time_ns(), written))
            except FileNotFoundError:
                self._fetch(cast(BucketPath, path), copy, found.st_size)
        return copy

    def _stat(self, path: Path) -> BucketStat:
        """Size and generation, asked for once: training data don't change."""
        name = str(path)
        if name not in self._stats:
            self._stats[name] = cast(BucketPath, path).stat()
        return self._stats[name]

    def _copy_of(self, path: Path, found: BucketStat) -> Path:
        digest = hashlib.sha256(f"{path} {found.st_ino}".encode()).hexdigest()[:32]
        return self.folder / digest[:2] / f"{digest}{path.suffix[:16]}"

    def _lock_of(self, name: str) -> threading.Lock:
        with self._lock:
            return self._locks.setdefault(name, threading.Lock())

    def _fetch(self, path: BucketPath, copy: Path, size: int) -> None:
        if self.most_bytes < sys.maxsize:
            self._make_room(size)
        copy.parent.mkdir(parents=True, exist_ok=True)
        draft = copy.with_name(f"{copy.name}.{uuid.uuid4().hex}{_LEFT_BEHIND}")
        try:
            with draft.open("wb") as file:
                for piece in _pieces(path, size):
                    file.write(piece)
            draft.replace(copy)
        finally:
            draft.unlink(missing_ok=True)

    def _make_room(self, size: int) -> None:
        """Deletes copies used longest ago until there is room for so many bytes."""
        with self._lock:
            self._added += size
            if self._added < _LOOK_AFTER * self.most_bytes:
                return
            self._added = 0
            found = sorted(_copies(self.folder))
            held = sum(length for _, length, _ in found)
            for _, length, copy in found:
                if held + size <= self.most_bytes:
                    break
                if _delete_unused(copy):
                    held -= length


def _pieces(path: BucketPath, size: int) -> Iterator[bytes]:
    """Yields the content of a file in order, a few pieces of it in memory."""
    starts = range(0, size, PIECE)
    if len(starts) < 2:
        yield path.read_bytes() if size else b""
        return
    with ThreadPoolExecutor(_THREADS) as threads:
        ahead = [
            threads.submit(path.read_range, s, min(s + PIECE, size)) for s in starts[:_THREADS]
        ]
        for start in starts:
            piece = ahead.pop(0).result()
            later = start + _THREADS * PIECE
            if later < size:
                stop = min(later + PIECE, size)
                ahead.append(threads.submit(path.read_range, later, stop))
            yield piece


def _copies(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """Yields time of the last use, bytes and path of each copy."""
    for path in folder.glob("*/*"):
        with contextlib.suppress(FileNotFoundError):
            found = path.stat()
            if not path.name.endswith(_LEFT_BEHIND):
                yield found.st_atime, found.st_size, path
            elif time.time() - found.st_mtime > _DRAFT_SECONDS:
                path.unlink()


def _delete_unused(copy: Path) -> bool:
    """Deletes a copy unless a process reads it; returns whether it did."""
    try:
        with copy.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            copy.unlink()
    except OSError:
        return False
    return True


def kept_copy(path: Path) -> Path:
    """Returns the path of a copy of a file in a bucket that isn't deleted; see `LocalCache`."""
    return LocalCache(_folder() / "kept", sys.maxsize).fetch(path)


def _folder() -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get(FOLDER) or home / "stts_jax" / "buckets")


@cache
def local_cache() -> LocalCache:
    """Returns the cache of this process."""
    try:
        gigabytes = float(os.environ.get(GIGABYTES) or _DEFAULT_GIGABYTES)
    except ValueError:
        gigabytes = _DEFAULT_GIGABYTES
    return LocalCache(_folder() / "media", int(gigabytes * 1e9))


@contextlib.contextmanager
def on_this_machine(path: Path) -> Iterator[Path]:
    """Yields the path itself, or that of a copy of a file in a bucket; see `LocalCache.opened`."""
    if not is_bucket(path):
        yield path
        return
    with local_cache().opened(path) as copy:
        yield copy
