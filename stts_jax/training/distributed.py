"""Joins the processes of a run, lets them exchange messages, and reports one that is gone.

A process learns in one of two ways that another one is gone. A collective or a message fails, which
is a Python exception. Or JAX's coordination service aborts this process from a thread of its own;
`library_output` explains that.
"""

from __future__ import annotations

import itertools
import os
import re
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress

import jax
from jax._src import distributed, xla_bridge

from stts_jax.config import ConfigError

# JAX reads the first by itself; the other two are for clusters that it doesn't know.
COORDINATOR, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
# The exit code of a process that loses another one; in sysexits.h, a temporary failure.
LOST_PROCESS = 75
LOST_MESSAGE = (
    "another process of this run is gone, so this one ends too; its own output says why, and "
    "starting all of them again goes on from the last checkpoint"
)
# Errors of Gloo and of JAX's coordination service about a process that doesn't answer.
_LOST = re.compile(
    "gloo|connection (closed|reset|refused)|socket closed|heartbeat|coordination ?service|"
    "barrier (failed|timed out)|tasks? (are|is) unhealthy",
    re.IGNORECASE,
)
# Set once the message was printed: JAX may abort a process that is about to end.
lost_reported = threading.Event()
_RUNS = itertools.count()
_LONG_MS = 24 * 3600 * 1000


def leave_processes() -> None:
    """Leaves the other processes of this run, all of which end now, and waits until they left too.

    The first process has JAX's coordination service: if it ended before the others had left, JAX
    would abort them, whatever their exit code was to be.
    """
    if jax.distributed.is_initialized():
        with suppress(RuntimeError):  # one that is gone by now has nothing to wait for
            jax.distributed.shutdown()


def join_processes(environment: Mapping[str, str] = os.environ) -> int:
    """Joins the other processes of this run, if there are any; to be called before all else of JAX.

    JAX itself finds Slurm, Open MPI, TPU slices and GKE. Elsewhere, each process needs
    `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`.

    Returns:
      the number of processes.

    Raises:
      ConfigError: if only some of these variables are set, or one is no valid number.
    """
    if jax.distributed.is_initialized():
        return jax.process_count()
    # With only a coordinator, the rest may come from a cluster that JAX knows.
    if environment.get(COUNT) or environment.get(INDEX):
        count, index = _count_and_index(environment)
        jax.distributed.initialize(environment[COORDINATOR], count, index)
        return count
    if xla_bridge.backends_are_initialized():
        return 1  # called from a program that already computes, on its own
    try:
        jax.distributed.initialize()
    except ValueError as error:
        if environment.get(COORDINATOR):
            _count_and_index(environment)  # raises: JAX found no cluster that has the rest
        if "coordinator_address" not in str(error):
            raise
        return 1  # JAX found no cluster around this process
    return jax.process_count()


def several_processes() -> bool:
    """Returns whether this process has joined others; initialises no devices."""
    return jax.distributed.is_initialized() and distributed.global_state.num_processes > 1


def _count_and_index(environment: Mapping[str, str]) -> tuple[int, int]:
    for name in (COORDINATOR, COUNT, INDEX):
        if not environment.get(name):
            raise ConfigError(
                f"{name} is not set, but others of {COORDINATOR}, {COUNT}, {INDEX} are; set all "
                "three or none"
            )
    try:
        count, index = int(environment[COUNT]), int(environment[INDEX])
    except ValueError:
        count, index = 0, 0
    if not 0 <= index < count:
        raise ConfigError(
            f"{COUNT} is '{environment[COUNT]}' and {INDEX} is '{environment[INDEX]}'; number the "
            "processes from 0"
        )
    return count, index


def is_lost_process(error: BaseException) -> bool:
    """Returns whether an error or one of its causes means that another process is gone."""
    if not several_processes():
        return False
    links: BaseException | None = error
    while links is not None:
        if isinstance(links, jax.errors.JaxRuntimeError | ValueError) and _LOST.search(str(links)):
            return True
        links = links.__cause__ or links.__context__
    return False


def report_lost_process(name: str) -> int:
    """Prints the message about a lost process; returns the exit code."""
    lost_reported.set()
    print(f"{name}: {LOST_MESSAGE}", file=sys.stderr, flush=True)
    return LOST_PROCESS


class Agreement:
    """Messages between the processes of a run, by JAX's coordination service.

    They work while devices compute and while a process waits for data, where a collective would
    hang. With one process they do nothing.
    """

    def __init__(self) -> None:
        self._client = distributed.global_state.client if jax.process_count() > 1 else None
        self._prefix = f"stts_jax/{next(_RUNS)}"

    @property
    def alone(self) -> bool:
        """Whether this is the only process."""
        return self._client is None

    def send(self, key: str, value: str) -> None:
        """Sets the value of a key for all processes; the last value counts."""
        if self._client is not None:
            self._client.key_value_set(f"{self._prefix}/{key}", value, allow_overwrite=True)

    def received(self, key: str) -> str | None:
        """Returns the value of a key, None if no process has sent one."""
        if self._client is None:
            return None
        try:
            return self._client.key_value_try_get(f"{self._prefix}/{key}")
        except jax.errors.JaxRuntimeError as error:
            if "NOT_FOUND" not in str(error):
                raise
            return None

    def meet(self, key: str) -> None:
        """Waits until all processes have called this with the key; a key may be used once."""
        if self._client is not None:
            self._client.wait_at_barrier(f"{self._prefix}/{key}", _LONG_MS)
