"""Terminal output of a command: progress lines and bars, and the end where nobody reads them."""

from __future__ import annotations

import io
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from tqdm import tqdm

# Between two progress lines where there is no terminal.
INTERVAL_SECONDS = 30.0
# Shorter work needs no bar.
_DELAY_SECONDS = 1.0
# The exit code that a shell reports for SIGPIPE; Python ignores the signal itself.
BROKEN_PIPE = 128 + signal.SIGPIPE
_LINE = "{desc}: {n_fmt} of {total_fmt} {unit} after {elapsed}, {remaining} left"
_BYTES_LINE = "{desc}: {n_fmt}B of {total_fmt}B after {elapsed}, {rate_fmt}, {remaining} left"


def to_stderr(text: str) -> None:
    """Prints a line to the standard error, apart from the results of a command."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def doing(what: str, say: Callable[[str], None] = to_stderr) -> Iterator[None]:
    """Prints that work begins, every half minute that it goes on, and how long it took.

    Args:
      what: the work, for example `loading the model`.
      say: prints a line; called from another thread too.
    """
    say(f"{what} ...")
    started, done = time.monotonic(), threading.Event()

    def report() -> None:
        while not done.wait(INTERVAL_SECONDS):
            say(f"{what}: {time.monotonic() - started:.0f} s so far")

    threading.Thread(target=report, daemon=True, name="progress").start()
    try:
        yield
    finally:
        done.set()
    say(f"{what}: {time.monotonic() - started:.1f} s")


def progress_bar(items: Iterable[Any] | None = None, *, shown: bool = True, **options: Any) -> tqdm:
    """Returns a `tqdm` bar on the standard error; without a terminal, a line now and then.

    Args:
      items: to iterate over, if any.
      shown: whether to show anything.
      options: of `tqdm`.
    """
    stream = sys.stderr
    if stream.isatty():
        return tqdm(items, file=stream, disable=not shown, **options)
    lines = {
        "mininterval": INTERVAL_SECONDS,
        "maxinterval": 2 * INTERVAL_SECONDS,
        "miniters": 1,
        "delay": _DELAY_SECONDS,
        "bar_format": _BYTES_LINE if options.get("unit") == "B" else _LINE,
    }
    return tqdm(items, file=_Lines(stream), disable=not shown, **lines, **options)


@contextmanager
def byte_bar(what: str, total: int, *, shown: bool = True) -> Iterator[Callable[[int], object]]:
    """Shows how many bytes are done and how many a second; yields what to call with more of them.

    Args:
      what: the work, for example `reading parameters`.
      total: bytes that there are to do.
      shown: whether to show anything.
    """
    with progress_bar(
        desc=what, total=total, unit="B", unit_scale=True, leave=False, shown=shown
    ) as bar:
        yield bar.update


class _Lines(io.TextIOBase):
    """Writes each state of a bar as a line of its own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        line = text.strip()
        if line:
            self._stream.write(f"{line}\n")
        return len(text)

    def flush(self) -> None:
        self._stream.flush()


def is_stdout_closed() -> bool:
    """Returns whether the reader of the standard output is gone, as in `eval.py ... | head`."""
    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), 0)
    except (OSError, ValueError):
        return False
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def end_quietly() -> int:
    """Discards pending output, so that Python doesn't fail to flush it; returns the exit code."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
    return BROKEN_PIPE
