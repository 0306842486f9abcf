"""Several processes as one run: joining them, and what they must agree on."""

from __future__ import annotations

import itertools
import os
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

import jax
from jax._src import distributed, xla_bridge

from stts_jax.config import ConfigError
from stts_jax.parallel.processes import Share, is_first
from stts_jax.training.checkpoint import CheckpointError, writing

# JAX reads the first by itself; the other two are for places that it doesn't know of.
COORDINATOR, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
_RUNS = itertools.count()
_LONG_MS = 24 * 3600 * 1000
# A file store may show a new file to other hosts some time later.
_SEEN_SECONDS = 10.0


def join_processes(environment: Mapping[str, str] = os.environ) -> int:
    """Join the other processes of this run, if there are any; before anything else of JAX.

    Slurm, Open MPI, TPU slices and GKE are found by JAX itself. Anywhere else, each process is
    told by `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`.

    Returns:
      the number of processes, 1 where nothing says otherwise.

    Raises:
      ConfigError: if only a part of these variables is set, or one makes no sense.
    """
    if jax.distributed.is_initialized():
        return jax.process_count()
    # A cluster that JAX knows tells the rest where there is only a coordinator.
    if environment.get(COUNT) or environment.get(INDEX):
        count, index = _told(environment)
        jax.distributed.initialize(environment[COORDINATOR], count, index)
        return count
    if xla_bridge.backends_are_initialized():
        return 1  # called from a program that already computes, on its own
    try:
        jax.distributed.initialize()
    except ValueError as error:
        if environment.get(COORDINATOR):
            _told(environment)  # JAX found nothing that would tell the rest
        if "coordinator_address" not in str(error):
            raise
        return 1  # JAX found no cluster around this process
    return jax.process_count()


def require_shared(output: Path) -> None:
    """Raise a `CheckpointError` if not all processes see what the first one writes to a folder.

    They would train apart from each other until the first save, and wait there for ever.

    Args:
      output: of the run; it exists in each process.
    """
    share = Share.of_this_process()
    if share.count == 1:
        return
    token = output / f".seen-by-all-{uuid.uuid4().hex}"
    try:
        if is_first():
            with writing(token):
                token.touch()
        seen = share.gather(_appears(output / share.gather(token.name)[0]))
    finally:
        if is_first():
            token.unlink(missing_ok=True)
    if not all(seen):
        raise CheckpointError(
            f"--output '{output}' is not the same folder for all processes: number "
            f"{seen.index(False)} does not see what number 0 writes there; choose one that all "
            "hosts share"
        )


def _appears(file: Path) -> bool:
    end = time.monotonic() + _SEEN_SECONDS
    while not file.exists():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def several_processes() -> bool:
    """Whether this process has joined others; asks nothing of the devices."""
    return jax.distributed.is_initialized() and distributed.global_state.num_processes > 1


def _told(environment: Mapping[str, str]) -> tuple[int, int]:
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


class Agreement:
    """What the processes of a run tell each other between steps, beside the devices.

    It goes through JAX's coordination service, so it works while devices compute and while a
    process waits for data, where a collective would hang. With one process nothing is asked.
    """

    def __init__(self) -> None:
        self._client = distributed.global_state.client if jax.process_count() > 1 else None
        self._prefix = f"stts_jax/{next(_RUNS)}"

    @property
    def alone(self) -> bool:
        """Whether there is only this process."""
        return self._client is None

    def tell(self, key: str, value: str) -> None:
        """Let the others know; the last one to tell wins."""
        if self._client is not None:
            self._client.key_value_set(f"{self._prefix}/{key}", value, allow_overwrite=True)

    def told(self, key: str) -> str | None:
        """What one of the processes told under that key, if any."""
        if self._client is None:
            return None
        try:
            return self._client.key_value_try_get(f"{self._prefix}/{key}")
        except jax.errors.JaxRuntimeError as error:
            if "NOT_FOUND" not in str(error):
                raise
            return None

    def meet(self, key: str) -> None:
        """Wait until all processes are here; each key once."""
        if self._client is not None:
            self._client.wait_at_barrier(f"{self._prefix}/{key}", _LONG_MS)
