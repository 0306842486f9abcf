"""The main module of worker processes: what they import before all else.

Grain imports JAX and Orbax where they are installed, and does without them where they are not.
Together they are over half of the memory of a process that reads examples and needs neither.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import threading

UNUSED = ("jax", "orbax")


def end_with_the_run(index: int, count: int) -> None:
    """Ends a worker process when the run is killed; else it would wait for ever."""
    run = multiprocessing.parent_process()
    assert run is not None

    def wait() -> None:
        run.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _import_grain() -> None:
    hidden = [name for name in UNUSED if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # importing these fails
    logging.disable(logging.WARNING)  # Grain says that there is no profiler
    try:
        import grain  # noqa: F401
    finally:
        logging.disable(logging.NOTSET)
        for name in hidden:
            del sys.modules[name]


if __name__ == "__mp_main__":
    _import_grain()
