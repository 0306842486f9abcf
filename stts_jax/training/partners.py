"""A process that loses another one of its run says so in one sentence, with its own exit code.

It learns of it in one of two ways. A collective or a message between the processes fails, which is
a Python exception. Or JAX's coordination service, which hears no more of a process, aborts this
one from a thread of its own: a handler of that signal has the last word then.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import jax

from stts_jax.training.distributed import several_processes

# The exit code. In sysexits.h: a failure that may not be there when it is tried again.
LOST_PARTNER = 75
SENTENCE = (
    "another process of this run is gone, so this one ends too; its own output says why, and "
    "starting all of them again goes on from the last checkpoint"
)
# How Gloo, and JAX's service by which processes agree, say that a process doesn't answer.
_LOST = re.compile(
    "gloo|connection (closed|reset|refused)|socket closed|heartbeat|coordination ?service|"
    "barrier (failed|timed out)|tasks? (are|is) unhealthy",
    re.IGNORECASE,
)
_ABORTS = b"JAX distributed service detected fatal errors"
_TAIL_BYTES = 20_000
_OnSignal = ctypes.CFUNCTYPE(None, ctypes.c_int)
# What C calls must not be collected.
_kept: list[object] = []
# Set once the sentence was printed: JAX's service may abort a process that is about to end.
_told = threading.Event()


def is_lost_partner(error: BaseException) -> bool:
    """Whether an error, or what led to it, says that another process of this run is gone."""
    if not several_processes():
        return False
    links: BaseException | None = error
    while links is not None:
        if isinstance(links, jax.errors.JaxRuntimeError | ValueError) and _LOST.search(str(links)):
            return True
        links = links.__cause__ or links.__context__
    return False


def tell_lost_partner(name: str) -> int:
    """Print the sentence; returns the exit code."""
    _told.set()
    print(f"{name}: {SENTENCE}", file=sys.stderr, flush=True)
    return LOST_PARTNER


def native_log_of(output: Path, index: int) -> Path:
    """The file that takes what libraries written in C++ print."""
    return output / f"native-{index}.log"


def keep_native_log(name: str, log: Path) -> None:
    """Send what libraries print to the standard error into a file, and explain their abort.

    Python's `sys.stderr` still goes to where it went. For programs only: it lasts until the end.

    Args:
      name: of the program, for the sentence.
      log: the file; its folder is made. Nothing happens where it can't be.
    """
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError:
        return
    sys.stderr.flush()
    terminal = os.dup(2)
    os.dup2(file, 2)
    os.close(file)
    sys.stderr = os.fdopen(terminal, "w", buffering=1)
    _on_abort(lambda: _explain_abort(name, log, terminal))


def _on_abort(explain: Callable[[], None]) -> None:
    """Call `explain` when C++ aborts; Python's own handlers would only run after that."""
    handler = _OnSignal(lambda _: explain())
    _kept.append(handler)
    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = [ctypes.c_int, _OnSignal], ctypes.c_void_p
    libc.signal(signal.SIGABRT, handler)


def _explain_abort(name: str, log: Path, terminal: int) -> None:
    if _ABORTS in _tail(log):
        if not _told.is_set():
            os.write(terminal, f"{name}: {SENTENCE} ('{log}' has more)\n".encode())
        os._exit(LOST_PARTNER)
    os.write(terminal, f"{name}: aborted by a library; '{log}' has what it said\n".encode())


def _tail(log: Path) -> bytes:
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        return file.read()
    return b""
