"""Writes what libraries log with Python's logging to a file of the run, not to the terminal."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Orbax logs to absl, and to asyncio for failed tasks that are not awaited.
_LOGGERS = ("absl", "orbax", "asyncio")


def library_log_of(output: Path, index: int) -> Path:
    """Returns the path of the file, which is made at the first message."""
    return output / f"library-{index}.log"


@contextmanager
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
    handler.handleError = lambda record: None  # a full disk must not add another traceback
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
