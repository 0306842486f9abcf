"""What libraries report by Python's logging, in a file of the run instead of on the terminal."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Orbax reports by absl's logger, and by asyncio's where nobody awaits what failed.
_LOGGERS = ("absl", "orbax", "asyncio")


def library_log_of(output: Path, index: int) -> Path:
    """The file, which there is only once something was reported."""
    return output / f"library-{index}.log"


@contextmanager
def library_log(output: Path, index: int) -> Iterator[None]:
    """Write warnings and tracebacks of checkpointing, threads of it included, to a file.

    What goes wrong with a checkpoint is said in one sentence anyway; the tracebacks that Orbax
    prints beside it are for those who look into it.

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
