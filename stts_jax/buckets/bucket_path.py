"""The path of a folder or file in a bucket, with the methods of `pathlib.Path`.

A bucket has no folders and no renaming: a folder is there while a file below it is, and a file is
there, whole, when it was closed. So `mkdir` does nothing, and `rename` is refused.
"""

from __future__ import annotations

import errno
import fnmatch
import io
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

from etils.epath.gpath import PosixGPath

from stts_jax.buckets.errors import BucketError, reason_without_secrets
from stts_jax.buckets.file_system import file_system

_SAID = {
    kind: (number, os.strerror(number))
    for kind, number in (
        (FileNotFoundError, errno.ENOENT),
        (FileExistsError, errno.EEXIST),
        (IsADirectoryError, errno.EISDIR),
        (NotADirectoryError, errno.ENOTDIR),
    )
}
_FILE_MODE, _FOLDER_MODE = stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755


@dataclass(frozen=True)
class BucketStat:
    """What is known of a file or folder, by the names of `os.stat_result`.

    Attributes:
      st_size: bytes.
      st_mtime_ns: when it was written, by the clock of the store.
      st_mode: a file or a folder.
      st_ino: generation of the file, which every write changes.
    """

    st_size: int
    st_mtime_ns: int
    st_mode: int
    st_ino: int = 0

    @property
    def st_ctime_ns(self) -> int:
        """The time that it was written: a bucket has no other."""
        return self.st_mtime_ns

    @property
    def length(self) -> int:
        """The bytes, by the name that epath has for it."""
        return self.st_size


class BucketPath(PosixGPath):
    """A path in a bucket; errors other than those of missing files are `BucketError`s."""

    def resolve(self, strict: bool = False) -> Self:
        """Returns itself: a bucket has no links."""
        return self

    def absolute(self) -> Self:
        """Returns itself."""
        return self

    def expanduser(self) -> Self:
        """Returns itself."""
        return self

    def is_absolute(self) -> bool:
        """Returns true: an address doesn't depend on the folder of a process."""
        return True

    def is_symlink(self) -> bool:
        """Returns false: a bucket has no links."""
        return False

    def exists(self) -> bool:
        """Returns whether it is a file, or files are below it."""
        return self._kind() is not None

    def is_file(self) -> bool:
        """Returns whether it is a file."""
        return self._kind() == "file"

    def is_dir(self) -> bool:
        """Returns whether files are below it."""
        return self._kind() == "directory"

    def _kind(self) -> str | None:
        try:
            return str(self._info()["type"])
        except FileNotFoundError:
            return None

    def _info(self) -> dict[str, Any]:
        return self._do("looked up", lambda files: files.info(str(self)))

    def stat(self, *, follow_symlinks: bool = True) -> BucketStat:
        """Returns size, time and generation."""
        found = self._info()
        if found["type"] != "file":
            return BucketStat(0, 0, _FOLDER_MODE)
        written = int(found["mtime"].timestamp() * 1e6) * 1000
        return BucketStat(found["size"], written, _FILE_MODE, int(found.get("generation", 0)))

    def iterdir(self) -> Iterator[Self]:
        """Yields what is in the folder."""
        names = self._do("listed", lambda files: files.ls(str(self), detail=False))
        for name in names:
            last = name.rstrip("/").rpartition("/")[2]
            if not self._is_itself(name):
                yield self / last

    def _is_itself(self, name: str) -> bool:
        """Whether a name of a listing is the empty file that some programs make for a folder."""
        return bool(name.rstrip("/") == str(self).removeprefix("gs://").rstrip("/"))

    def glob(self, pattern: str) -> Iterator[Self]:
        """Yields what is below the folder and has a name of the pattern."""
        names = self._do("listed", lambda files: files.glob(f"{self}/{pattern}"))
        return (self._new(f"gs://{name}") for name in names)

    def rglob(self, pattern: str) -> Iterator[Self]:
        """Yields the files below the folder that have a name of the pattern."""
        names = self._do("listed", lambda files: files.find(str(self)))
        found = (self._new(f"gs://{name}") for name in names if not name.endswith("/"))
        return (path for path in found if fnmatch.fnmatchcase(path.name, pattern))

    def open(
        self,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> Any:
        """Opens the file; `a` and `+` are not possible, as files in buckets can't be changed."""
        kind = mode.replace("b", "").replace("t", "")
        if kind not in ("r", "w", "x"):
            raise BucketError(str(self), f"opened with mode '{mode}'", "files can't be changed")
        opened = self._do("opened", lambda files: files.open(str(self), f"{kind}b"))
        if "b" in mode:
            return opened
        return io.TextIOWrapper(opened, encoding or "utf-8", errors, newline)

    def read_bytes(self) -> bytes:
        """Returns the content of the file."""
        return self._do("read", lambda files: files.cat_file(str(self)))

    def read_range(self, start: int, stop: int) -> bytes:
        """Returns the bytes from `start` to `stop`, fewer at the end of the file."""
        return self._do("read", lambda files: files.cat_file(str(self), start=start, end=stop))

    def read_text(self, encoding: str | None = None, errors: str | None = None) -> str:
        """Returns the text of the file."""
        return self.read_bytes().decode(encoding or "utf-8", errors or "strict")

    def write_bytes(self, data: bytes) -> int:
        """Writes the file, as a whole."""
        self._do("written", lambda files: files.pipe_file(str(self), bytes(data)))
        return len(data)

    def write_text(
        self,
        data: str,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> int:
        """Writes the file, as a whole."""
        return self.write_bytes(data.encode(encoding or "utf-8", errors or "strict"))

    def upload(self, local: str) -> None:
        """Writes the file with the content of one of this machine."""
        self._do("written", lambda files: files.put_file(local, str(self)))

    def touch(self, mode: int = 0o666, exist_ok: bool = True) -> None:
        """Makes an empty file unless there is one."""
        if not self.exists():
            self.write_bytes(b"")

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Does nothing: a bucket has no folders."""

    def unlink(self, missing_ok: bool = False) -> None:
        """Deletes the file."""
        try:
            self._do("deleted", lambda files: files.rm_file(str(self)))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def rmdir(self) -> None:
        """Does nothing: a bucket has no folders."""

    def rmtree(self, missing_ok: bool = False) -> None:
        """Deletes all files below the folder."""
        # By name: recursively, gcsfs also asks for the deletion of folders.
        names = self._do("listed", lambda files: files.find(str(self)))
        if names:
            self._do("deleted", lambda files: files.rm(names))
        elif not missing_ok:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))

    def rename(self, target: Any) -> Self:
        """Refuses: a bucket has no renaming."""
        raise BucketError(str(self), "renamed", "a bucket has no renaming", "report this defect")

    replace = rename

    def _do(self, operation: str, call: Callable[[Any], Any]) -> Any:
        with _explained(str(self), operation):
            return call(file_system())


@contextmanager
def _explained(address: str, operation: str) -> Iterator[None]:
    """Raises any error of the block but those of missing and existing files as a `BucketError`."""
    try:
        yield
    except (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError) as error:
        # Their own text is a part of a URL.
        number, said = _SAID[type(error)]
        raise type(error)(number, said, address) from error
    except BucketError:
        raise
    except Exception as error:
        raise BucketError(address, operation, reason_without_secrets(error)) from error
