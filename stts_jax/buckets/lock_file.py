"""The file of a lock in a bucket, which one of several processes makes, takes over or removes.

It is made only where there is none, and removed only in the generation that was read: the store
refuses both otherwise, whatever other processes do meanwhile. Touching writes it again.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import tensorstore as ts

from stts_jax.buckets.bucket_path import BucketPath
from stts_jax.buckets.errors import BucketError, reason_without_secrets
from stts_jax.buckets.file_system import file_system


class BucketLockFile:
    """One file of a lock; see `output_lock.LockFile`."""

    def __init__(self, path: Path) -> None:
        self._path = BucketPath(path)
        self._bucket, _, self._key = str(path).removeprefix("gs://").partition("/")

    def create(self, content: bytes) -> bool:
        """Makes the file unless there is one; returns whether it did."""
        try:
            file_system().pipe_file(str(self._path), content, mode="create")
        except FileExistsError:
            # An answer that was lost is asked for again, and finds our own file.
            return self.read() == content
        except Exception as error:
            raise self._error("written", error) from error
        return True

    def read(self) -> bytes | None:
        """Returns the content, None without a file."""
        found = self._kept("read", lambda store: store.read(self._key))
        return bytes(found.value) if found.state == "value" else None

    def version(self) -> Any:
        """Returns the generation, which changes when the file is touched; None without a file."""
        found = self._kept("read", lambda store: store.read(self._key))
        return found.stamp.generation if found.state == "value" else None

    def touch(self, content: bytes) -> None:
        """Writes the file again if it still has this content."""
        found = self._kept("read", lambda store: store.read(self._key))
        if found.state == "value" and bytes(found.value) == content:
            generation = found.stamp.generation
            self._kept("written", lambda s: s.write(self._key, content, if_equal=generation))

    def remove(self, content: bytes | None) -> bool:
        """Removes the file if it still has this content; one of several that try succeeds."""
        found = self._kept("read", lambda store: store.read(self._key))
        if found.state != "value" or (content is not None and bytes(found.value) != content):
            return False
        generation = found.stamp.generation
        self._kept("deleted", lambda s: s.write(self._key, None, if_equal=generation))
        return self.version() != generation

    def _kept(self, operation: str, call: Any) -> Any:
        try:
            return call(self._store).result()
        except Exception as error:
            raise self._error(operation, error) from error

    @cached_property
    def _store(self) -> Any:
        file_system()  # its settings of TensorStore
        return ts.KvStore.open({"driver": "gcs", "bucket": self._bucket}).result()

    def _error(self, operation: str, error: Exception) -> BucketError:
        return BucketError(str(self._path), operation, reason_without_secrets(error))
