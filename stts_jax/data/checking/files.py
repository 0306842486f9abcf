"""Whether video and picture files are there and can be read, in several processes.

A damaged file may kill the process that reads it; that costs its own result only.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import multiprocessing
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal, NamedTuple, TypeVar

from stts_jax.buckets.address import is_bucket
from stts_jax.data.embedded import EmbeddedPicture
from stts_jax.data.images.file import load_image, require_picture
from stts_jax.data.video.pyav import open_pyav

# For those who read the result of a check without `--decode`.
NOT_LOOKED_AT = (
    "of videos the start was decoded, of pictures the header was read: --decode finds damage "
    "further in"
)
# Files handed to a process ahead of time.
AHEAD = 4
Item = TypeVar("Item")
Result = TypeVar("Result")


class MediaFile(NamedTuple):
    """A file or its content, and what it should be."""

    path: Path | EmbeddedPicture
    kind: Literal["video", "image"]


@dataclass(frozen=True)
class FileState:
    """The state of a file, as far as it was looked at.

    Attributes:
      seconds: length of a video.
      problem: None if it is in order.
      reason: the problem in a sentence that names the file.
    """

    seconds: float = 0.0
    problem: Literal["missing", "damaged"] | None = None
    reason: str = ""


def check_file(file: MediaFile, decode: bool) -> FileState:
    """Check a file.

    Args:
      file: to check.
      decode: all frames or the whole picture; otherwise only its structure and the start of a video
        are looked at, and all of a video whose packets don't tell what is shown.
    """
    path, kind = file
    try:
        if not path.exists():
            return FileState(problem="missing", reason=f"'{path}' does not exist")
        if not isinstance(path, EmbeddedPicture) and is_bucket(path):
            return _check_copy(file, decode)
        if kind == "video":
            assert isinstance(path, Path)
            return FileState(seconds=_decoded(path, decode))
        (load_image if decode else require_picture)(path)
    except Exception as error:  # disks and decoders raise many kinds; each is a file not to use
        reason = str(error) or type(error).__name__
        return FileState(
            problem="damaged", reason=reason if str(path) in reason else f"'{path}': {reason}"
        )
    return FileState()


def _check_copy(file: MediaFile, decode: bool) -> FileState:
    """Checks a file of a bucket, which is fetched as a whole; decoders seek in it."""
    from stts_jax.buckets.local_cache import local_cache

    assert isinstance(file.path, PurePath)
    with local_cache().opened(file.path) as copy:
        found = check_file(MediaFile(copy, file.kind), decode)
    named = found.reason.replace(str(copy), str(file.path))
    return dataclasses.replace(found, reason=named)


def _decoded(path: Path, whole: bool) -> float:
    """Decode all frames or the first; the length in seconds."""
    with open_pyav(path) as video:
        for _ in video.frames_numbered(range(video.frame_count if whole else 1)):
            pass
        return video.end - video.begin


def check_files(
    files: Iterable[MediaFile], *, decode: bool, workers: int
) -> Iterator[tuple[MediaFile, FileState]]:
    """Check files, in the order in which they get done.

    Args:
      files: to check.
      decode: see `check_file`.
      workers: processes; 0 for none but this one.
    """
    check = functools.partial(check_file, decode=decode)
    for file, state in in_processes(check, files, workers):
        died = f"'{file.path}' makes the decoder crash; copy or download it again"
        yield file, state or FileState(problem="damaged", reason=died)


def in_processes(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Iterator[tuple[Item, Result | None]]:
    """Apply a function in processes that may die.

    Args:
      function: importable; its result is never None.
      items: arguments.
      workers: processes; 0 for none but this one.

    Yields:
      item and result as they get done; None if the process died of the item.
    """
    if workers == 0:
        yield from ((item, function(item)) for item in items)
        return
    items = iter(items)
    suspects: list[Item] | None = None
    while suspects is None or suspects:
        suspects = yield from _until_death(function, items, workers)
        for item in suspects:  # whichever of them it was: each gets a process of its own
            yield item, _alone(function, item)


def _until_death(
    function: Callable[[Item], Result], items: Iterator[Item], workers: int
) -> Generator[tuple[Item, Result | None], None, list[Item]]:
    """Work until there are no more items, or a process dies; returns what was under way then."""
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))
    running: dict[Future[Result], Item] = {}
    try:
        while True:
            room = AHEAD * workers - len(running)
            running |= {pool.submit(function, item): item for item in itertools.islice(items, room)}
            if not running:
                return []
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                if not isinstance(future.exception(), BrokenProcessPool):
                    yield running.pop(future), future.result()
            if any(future in running for future in done):
                return list(running.values())
    finally:
        pool.shutdown(cancel_futures=True)


def _alone(function: Callable[[Item], Result], item: Item) -> Result | None:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(function, item).result()
        except BrokenProcessPool:
            return None
