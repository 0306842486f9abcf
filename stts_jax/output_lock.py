"""A lock on an output folder: one run at a time, across hosts.

`FOLDER/lock` names host and process of its holder, which touches the file every few seconds. The
lock of a dead holder is taken over. On the same host the process is looked up by number and start
time; on another host the file is watched until it is touched, or has not been for long enough. The
file store must create links and new files atomically; clocks of machines are not compared. In a
bucket touching writes the file again, and the store lets one process make or remove it.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from stts_jax.buckets.address import is_bucket

LOCK = "lock"
# Interval at which the holder touches the lock.
HEARTBEAT_SECONDS = 10.0
# A lock untouched for so long has no holder; file stores may show changes late.
STALE_SECONDS = 120.0
_WATCH_SECONDS = 1.0
_MOST_BYTES = 10_000


class LockedError(RuntimeError):
    """The folder is locked by another process; the message names it."""


@dataclass(frozen=True)
class Holder:
    """A process that holds a lock.

    Attributes:
      token: unique to this lock.
      host: name of the host.
      machine: boot id and process namespace of `pid`, empty where unknown.
      pid: process number.
      started: start time in ticks since the boot; None where unknown.
      what: the work of the process.
    """

    token: str
    host: str
    machine: str
    pid: int
    started: int | None
    what: str

    @staticmethod
    def this_process(what: str) -> Holder:
        """Returns this process, with a new token."""
        pid = os.getpid()
        return Holder(uuid.uuid4().hex, socket.gethostname(), _machine(), pid, _started(pid), what)

    def is_here(self) -> bool:
        """Returns whether the process is on this machine."""
        return bool(self.machine) and self.machine == _machine()

    def is_alive(self) -> bool:
        """Returns whether the process runs, if it is on this machine."""
        return _started(self.pid) == self.started is not None


@contextlib.contextmanager
def hold_output(
    folder: Path, what: str, notice: Callable[[str], None] = print
) -> Iterator[OutputLock]:
    """Holds the lock of a folder, which exists, while the block runs.

    Args:
      folder: that is written to.
      what: this process does, for the message that others get.
      notice: takes a line of text.

    Raises:
      LockedError: if a process that lives holds it.
    """
    lock = OutputLock(folder, what)
    lock.acquire(notice)
    try:
        yield lock
    finally:
        lock.release()


class LockFile(Protocol):
    """The file of a lock, on a disk or in a bucket."""

    def create(self, content: bytes) -> bool:
        """Makes the file with its content unless there is one; returns whether it did."""

    def read(self) -> bytes | None:
        """Returns the content, None if there is no file or it can't be read."""

    def version(self) -> Any:
        """Returns what changes when the file is touched; None without a file."""

    def touch(self, content: bytes) -> None:
        """Touches the file if it still has this content."""

    def remove(self, content: bytes | None) -> bool:
        """Removes the file if it still has this content; one of several that try succeeds."""


class OutputLock:
    """The lock of one folder; see `hold_output`."""

    def __init__(self, folder: Path, what: str) -> None:
        self.folder, self.path = folder, folder / LOCK
        self._mine = Holder.this_process(what)
        self._content = json.dumps(asdict(self._mine)).encode() + b"\n"
        self._file = _lock_file(self.path, self._mine.token)
        self._released = threading.Event()

    def acquire(self, notice: Callable[[str], None] = print) -> None:
        """Takes the lock, if need be from a dead holder; see `hold_output`."""
        while not self._file.create(self._content):
            self._require_dead_holder(notice)
        threading.Thread(target=self._touch_until_released, daemon=True, name="lock").start()

    def is_held(self) -> bool:
        """Returns whether the lock was not taken over, as from a machine that slept."""
        return self._file.read() == self._content

    def release(self) -> None:
        """Releases the lock."""
        self._released.set()
        with contextlib.suppress(OSError):  # a bucket that is gone must not hide the first error
            if self.is_held():
                self._file.remove(self._content)

    def _require_dead_holder(self, notice: Callable[[str], None]) -> None:
        """Removes the lock of a dead holder, or raises a `LockedError`."""
        content, seen = self._file.read(), self._file.version()
        holder = _holder_of(content)
        if holder is not None and holder.is_here():
            if holder.is_alive():
                raise self._locked(holder)
        elif seen is not None and self._is_touched(holder, seen, notice):
            raise self._locked(holder)
        if self._file.remove(content):
            who = "a process" if holder is None else f"process {holder.pid} on '{holder.host}'"
            notice(f"'{self.folder}' was left locked by {who}, which is gone; its lock is removed")

    def _is_touched(self, holder: Holder | None, seen: Any, notice: Callable[[str], None]) -> bool:
        """Watches the lock; returns whether it is touched."""
        if holder is not None:
            notice(
                f"'{self.folder}' is locked by process {holder.pid} on '{holder.host}'; waiting up "
                f"to {STALE_SECONDS:.0f} s to see whether that is alive"
            )
        end = time.monotonic() + STALE_SECONDS
        while time.monotonic() < end:
            time.sleep(_WATCH_SECONDS)
            now = self._file.version()
            if now is None:
                return False
            if now != seen:
                return _holder_of(self._file.read()) is not None
        return False

    def _touch_until_released(self) -> None:
        while not self._released.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(OSError):
                self._file.touch(self._content)

    def _locked(self, holder: Holder | None) -> LockedError:
        if holder is None:
            return LockedError(f"'{self.folder}' is in use by another process; choose another")
        return LockedError(
            f"'{self.folder}' is in use by process {holder.pid} on host '{holder.host}' "
            f"({holder.what[:100]}); wait for it, stop it, or choose another --output"
        )


def _lock_file(path: Path, token: str) -> LockFile:
    if not is_bucket(path):
        return LocalLockFile(path, token)
    from stts_jax.buckets.lock_file import BucketLockFile

    return BucketLockFile(path)


class LocalLockFile:
    """The file of a lock in a folder of a file store; see `LockFile`."""

    def __init__(self, path: Path, token: str) -> None:
        self.path, self._token = path, token

    def create(self, content: bytes) -> bool:
        """Makes the file with its content unless there is one; returns whether it did."""
        new = self.path.with_name(f".{LOCK}-{self._token}")
        try:
            new.write_bytes(content)
            try:
                os.link(new, self.path)
            except FileExistsError:
                return False
            except OSError:  # a file store without links
                return self._create_alone(content)
            return True
        finally:
            new.unlink(missing_ok=True)

    def _create_alone(self, content: bytes) -> bool:
        try:
            with self.path.open("xb") as file:
                file.write(content)
        except FileExistsError:
            return False
        return True

    def read(self) -> bytes | None:
        """Returns the content, None if there is no file or it can't be read."""
        return _content(self.path)

    def version(self) -> int | None:
        """Returns the time of the last touch by the file store's clock; opening refreshes it."""
        try:
            with self.path.open("rb") as file:
                return os.fstat(file.fileno()).st_mtime_ns
        except OSError:
            return None

    def touch(self, content: bytes) -> None:
        """Touches the file if it still has this content."""
        if self.read() == content:
            os.utime(self.path)

    def remove(self, content: bytes | None) -> bool:
        """Removes the file if it still has this content; one of several that try succeeds."""
        aside = self.path.with_name(f".{LOCK}-stale-{self._token}")
        try:
            self.path.rename(aside)
        except FileNotFoundError:
            return False
        moved = _content(aside)
        if moved != content and _holder_of(moved) is not None:  # somebody was faster: the new one
            with contextlib.suppress(OSError):
                os.link(aside, self.path)
            aside.unlink(missing_ok=True)
            return False
        aside.unlink(missing_ok=True)
        return True


def read_holder(path: Path) -> Holder | None:
    """Returns the holder that a lock names; None if there is none, or it can't be read."""
    return _holder_of(_content(path))


def _content(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(_MOST_BYTES)
    except OSError:
        return None


def _holder_of(content: bytes | None) -> Holder | None:
    try:
        holder = Holder(**json.loads(content or b""))
    except (ValueError, TypeError, RecursionError):
        return None
    correct = isinstance(holder.pid, int) and isinstance(holder.host, str)
    return holder if correct else None


def _machine() -> str:
    """Returns the boot and the process numbering of this machine; empty without /proc."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(pid: int) -> int | None:
    """Returns the ticks from boot to the start of a process; None if it doesn't run."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])
