"""Writes what libraries log and print to files of the run, not to the terminal.

JAX's coordination service, when it misses another process, prints to the standard error and aborts
this process: a handler of that signal then prints one sentence.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from stts_jax.buckets.address import is_bucket
from stts_jax.training.distributed import LOST_MESSAGE, LOST_PROCESS, lost_reported

# Orbax logs to absl, and to asyncio for failed tasks that are not awaited.
_LOGGERS = ("absl", "orbax", "asyncio")
_ABORTS = b"JAX distributed service detected fatal errors"
_TAIL_BYTES = 20_000
_OnSignal = ctypes.CFUNCTYPE(None, ctypes.c_int)
# Callbacks of C must not be garbage-collected.
_kept: list[object] = []


def library_log_of(output: Path, index: int) -> Path:
    """Returns the path of the file, which is made at the first message."""
    return output / f"library-{index}.log"


@contextlib.contextmanager
def library_log(output: Path, index: int) -> Iterator[None]:
    """Writes warnings and tracebacks of checkpointing and its threads to a file in the block.

    The user gets one sentence about a failed checkpoint anyway; Orbax's tracebacks are for
    debugging.

    Args:
      output: folder of the run.
      index: of the process.
    """
    handler = logging.FileHandler(library_log_of(output, index), delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    handler.setLevel(logging.WARNING)
    # A full disk must not add another traceback.
    handler.handleError = lambda record: None  # type: ignore[method-assign]
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [(logger, logger.handlers, logger.propagate) for logger in loggers]
    hook = threading.excepthook

    def on_thread_error(failed: threading.ExceptHookArgs) -> None:
        about = (failed.exc_type, failed.exc_value or failed.exc_type(), failed.exc_traceback)
        loggers[0].error("a thread failed", exc_info=about)

    for logger in loggers:
        logger.handlers, logger.propagate = [handler], False
    threading.excepthook = on_thread_error
    try:
        yield
    finally:
        threading.excepthook = hook
        for logger, handlers, propagate in before:
            logger.handlers, logger.propagate = handlers, propagate
        handler.close()


def native_log_of(output: Path, index: int) -> Path:
    """Returns the path of the file for what libraries written in C++ print, on this machine."""
    if is_bucket(output):  # is appended to, and outlives the run
        output = Path(tempfile.gettempdir()) / f"stts-{output.name}-{os.getpid()}"
    return output / f"native-{index}.log"


def keep_native_log(name: str, log: Path) -> None:
    """Sends what libraries print to the standard error to a file, and explains their abort.

    Python's `sys.stderr` stays as it is. For programs only: it lasts until the end.

    Args:
      name: of the program, for the message.
      log: the file; its folder is made. Nothing is done if it can't be made.
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
    """Calls `explain` when C++ aborts; Python's own handlers would only run after that."""
    handler = _OnSignal(lambda _: explain())
    _kept.append(handler)
    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = [ctypes.c_int, _OnSignal], ctypes.c_void_p
    libc.signal(signal.SIGABRT, handler)


def _explain_abort(name: str, log: Path, terminal: int) -> None:
    if _ABORTS in _tail(log):
        if not lost_reported.is_set():
            os.write(terminal, f"{name}: {LOST_MESSAGE} ('{log}' has more)\n".encode())
        os._exit(LOST_PROCESS)
    os.write(terminal, f"{name}: aborted by a library; '{log}' has what it said\n".encode())


def _tail(log: Path) -> bytes:
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        return file.read()
    return b""
