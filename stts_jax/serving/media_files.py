"""Pictures and videos of clients as files that are read once and then dropped."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import threading
import weakref
from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class MediaFile:
    """One file.

    Attributes:
      path: in a folder that only this user can read.
      digest: SHA-256 of its content, in hexadecimal.
      nbytes: of its content.
    """

    path: Path
    digest: str
    nbytes: int


class MediaFiles:
    """Files by the digest of their content; together they have at most so many bytes.

    Any thread may use it.
    """

    def __init__(self, limit: int) -> None:
        """Starts empty.

        Args:
          limit: bytes. What is being read stays beyond it.
        """
        self._folder = Path(tempfile.mkdtemp(prefix="stts-serve-"))
        # Also where a server ends before it serves.
        self._remove = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._limit = limit
        self._known: OrderedDict[str, MediaFile] = OrderedDict()
        self._held: Counter[str] = Counter()
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Returns the bytes of all files."""
        with self._lock:
            return sum(file.nbytes for file in self._known.values())

    def add(self, content: bytes) -> MediaFile:
        """Keeps a content, and drops what was used least recently beyond the limit.

        Raises:
          OSError: if there is no room to write it; nothing of it stays.
        """
        digest = hashlib.sha256(content).hexdigest()
        found = self.get(digest)
        if found is not None:
            return found
        file = MediaFile(self._folder / digest, digest, len(content))
        written = self._write(content)  # before the lock, as nobody waits for a disk then
        with self._lock:
            written.replace(file.path)
            self._known[digest] = file
            self._known.move_to_end(digest)
            self._drop_beyond_limit(digest)
        return file

    def _write(self, content: bytes) -> Path:
        descriptor, name = tempfile.mkstemp(dir=self._folder)
        path = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as opened:
                opened.write(content)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return path

    def get(self, digest: str) -> MediaFile | None:
        """Returns a file that was added; None if it is not there, or no more."""
        with self._lock:
            file = self._known.get(digest)
            if file is not None:
                self._known.move_to_end(digest)
            return file

    @contextlib.contextmanager
    def held(self, file: MediaFile) -> Iterator[MediaFile]:
        """Keeps a file while the block runs."""
        with self._lock:
            self._held[file.digest] += 1
        try:
            yield file
        finally:
            with self._lock:
                self._held[file.digest] -= 1
                if not self._held[file.digest]:
                    del self._held[file.digest]

    def close(self) -> None:
        """Removes all files."""
        self._remove()

    def _drop_beyond_limit(self, newest: str) -> None:
        total = sum(file.nbytes for file in self._known.values())
        for digest, file in list(self._known.items()):
            if total <= self._limit:
                return
            if digest != newest and not self._held[digest]:
                del self._known[digest]
                file.path.unlink(missing_ok=True)
                total -= file.nbytes
