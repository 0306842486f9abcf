"""What a command is doing, from its first second on: lines of text, and bars where they can be."""

from __future__ import annotations

import io
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from tqdm import tqdm

# Between two lines on something that takes long, where there is no terminal.
INTERVAL_SECONDS = 30.0
# What is done sooner needs no bar.
_DELAY_SECONDS = 1.0
_LINE = "{desc}: {n_fmt} of {total_fmt} {unit} after {elapsed}, {remaining} left"


def to_stderr(text: str) -> None:
    """Print a line where it doesn't mix with what a command answers."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def doing(what: str, say: Callable[[str], None] = to_stderr) -> Iterator[None]:
    """Tell what is begun, every half minute that it still goes on, and how long it took.

    Args:
      what: for example `loading the model`.
      say: takes a line of text, also from another thread.
    """
    say(f"{what} ...")
    started, done = time.monotonic(), threading.Event()

    def tell_meanwhile() -> None:
        while not done.wait(INTERVAL_SECONDS):
            say(f"{what}: {time.monotonic() - started:.0f} s so far")

    threading.Thread(target=tell_meanwhile, daemon=True, name="progress").start()
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
    lines = {"mininterval": INTERVAL_SECONDS, "maxinterval": 2 * INTERVAL_SECONDS, "miniters": 1}
    return tqdm(
        items,
        file=_Lines(stream),
        disable=not shown,
        delay=_DELAY_SECONDS,
        bar_format=_LINE,
        **lines,
        **options,
    )


class _Lines(io.TextIOBase):
    """Takes what is meant to be drawn over the last state, and writes a line of it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        line = text.strip()
        if line:
            self._stream.write(f"{line}\n")
        return len(text)

    def flush(self) -> None:
        self._stream.flush()
