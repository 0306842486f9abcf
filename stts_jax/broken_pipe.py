"""Output that nobody reads any more, as of `python eval.py ... | head`."""

from __future__ import annotations

import os
import select
import signal
import sys

# What a shell reports of a program that the signal ended; ours ignore it, as all of Python's do.
BROKEN_PIPE = 128 + signal.SIGPIPE


def is_stdout_closed() -> bool:
    """Whether the reader of the standard output is gone; other pipes break for other reasons."""
    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), 0)
    except (OSError, ValueError):
        return False
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def end_quietly() -> int:
    """Drop what is still to be printed, so that the end of the program doesn't fail at it.

    Returns:
      the exit code.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
    return BROKEN_PIPE
