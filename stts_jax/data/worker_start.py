"""Starts worker processes with a main module of their own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import spawn
from typing import Any

MAIN = "stts_jax.data.worker_main"
GRAIN = "grain"  # its processes have this in their names
_one_at_a_time = threading.Lock()


@contextmanager
def light_workers() -> Iterator[None]:
    """Processes that this thread or Grain starts in the block don't import the main module.

    `multiprocessing` has each process import the program's main module, with all that a program for
    training imports, and Grain offers no other way to start one. They import `worker_main` in its
    place. Grain pickles what is defined in the main module by value, so that workers need it no
    more; a pool of `concurrent.futures` has to call what is in modules that are imported by name.
    Grain starts its workers from threads of its own, and what other threads start stays as it is.
    """
    with _one_at_a_time:
        prepare = spawn.get_preparation_data
        own_thread = threading.get_ident()

        def prepared(name: str) -> dict[str, Any]:
            data: dict[str, Any] = prepare(name)
            if GRAIN not in name and threading.get_ident() != own_thread:
                return data
            data.pop("init_main_from_path", None)
            return data | {"init_main_from_name": MAIN}

        spawn.get_preparation_data = prepared
        try:
            yield
        finally:
            spawn.get_preparation_data = prepare
