"""Notes what a dataset looks at while it reads its annotations, to see later what has changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from stts_jax.buckets.address import path_of

# Of a file that was read: size and times of its last changes (ns). Of a folder that was listed: its
# times. Of a file whose presence alone counts: 1, or 0 where there is none.
State = list[int]
Seen = dict[str, State]
_seen: ContextVar[Seen | None] = ContextVar("seen", default=None)


@contextmanager
def noting() -> Iterator[Seen]:
    """Notes what is looked at in the block: state by path."""
    seen: Seen = {}
    token = _seen.set(seen)
    try:
        yield seen
    finally:
        _seen.reset(token)


def note(path: Path) -> None:
    """Notes that the content of a file or folder is read."""
    if (seen := _seen.get()) is not None:
        seen[str(path)] = _content_state(path)


def note_below(folder: Path, folders: Iterable[Path]) -> None:
    """Notes that a folder is listed, and so are those in it."""
    note(folder)
    for below in folders:
        note(below)


def is_file(path: Path) -> bool:
    """Returns whether there is a file, and notes that its presence counts."""
    found = path.is_file()
    _note_presence(path, found)
    return found


def is_dir(path: Path) -> bool:
    """Returns whether there is a folder, and notes that its presence counts."""
    found = path.is_dir()
    _note_presence(path, found)
    return found


def _note_presence(path: Path, found: bool) -> None:
    seen = _seen.get()
    if seen is not None:
        seen.setdefault(str(path), [int(found)])


def is_unchanged(seen: Seen) -> bool:
    """Returns whether all that was looked at is as it was."""
    return all(
        int(path_of(path).exists()) == state[0]
        if len(state) == 1
        else _content_state(path_of(path)) == state
        for path, state in seen.items()
    )


def newest(seen: Seen) -> int:
    """Returns when the last of what was read was changed, in ns."""
    return max((max(state[1:]) for state in seen.values() if len(state) > 1), default=0)


def _content_state(path: Path) -> State:
    try:
        state = path.stat()
    except OSError:
        return [0]
    size = 0 if path.is_dir() else state.st_size  # of a folder, systems count as they like
    return [size, state.st_mtime_ns, state.st_ctime_ns]
