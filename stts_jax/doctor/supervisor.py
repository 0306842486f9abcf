"""Starts the process that computes, hears what it finds, and starts another where one ends early.

Imports no JAX: only one process at a time may hold a TPU, or most of a GPU's memory.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from stts_jax.doctor.results import without_folders

_COMMAND = (sys.executable, "-m", "stts_jax.doctor.worker")
# Longer than any check takes that doesn't hang, and than JAX takes to start; a third of the time
# that there is for all, if that is more.
MOST_SECONDS_OF_A_CHECK = 90.0
# A check that has begun may take so much longer than the time that there is for all.
SPARE_SECONDS = 30.0
# The name of the result of a process that doesn't come to its first check.
START = "start"


@dataclass
class Found:
    """What the processes have said so far.

    Attributes:
      devices: that JAX has.
      sizes: of all checks.
      planned: name and kind of all checks, in order.
      results: of those that have one, as `Result.as_dict`.
    """

    devices: list[dict[str, Any]] = field(default_factory=list)
    sizes: dict[str, Any] = field(default_factory=dict)
    planned: list[dict[str, str]] = field(default_factory=list)
    results: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Returns whether every planned check has a result."""
        return bool(self.planned) and all(c["name"] in self.results for c in self.planned)


OnEvent = Callable[[Found, dict[str, Any]], None]


def supervise(
    seconds: float,
    quick: bool,
    on_event: OnEvent,
    command: Sequence[str] = _COMMAND,
) -> Found:
    """Runs all checks, in as many processes as it takes.

    Args:
      seconds: after which no more check begins; one that has begun is stopped half a minute later,
        and any that hangs before.
      quick: whether sizes are tiny.
      on_event: called with what is known after each event.
      command: that starts the process.
    """
    found, end = Found(), time.monotonic() + seconds
    why, most = "the time was up", max(MOST_SECONDS_OF_A_CHECK, seconds / 3)
    while not found.is_complete and START not in found.results and time.monotonic() < end:
        known = len(found.results)
        _one_process(found, end, most, quick, on_event, command)
        if len(found.results) == known:
            why = "the process ended before it"
            break
    for check in found.planned:
        if check["name"] not in found.results:
            _add(found, check, "not run", why, on_event)
    return found


def _one_process(
    found: Found,
    end: float,
    most: float,
    quick: bool,
    on_event: OnEvent,
    command: Sequence[str],
) -> None:
    """Runs one process until it ends or must be ended; what it was at is then a failed check."""
    with tempfile.TemporaryFile("w+") as said:
        process, events = _start(end, quick, list(found.results), command, said)
        current, stopped, status = None, "", "failed"
        try:
            for event in _events(events, end + SPARE_SECONDS, most):
                current = _take(found, event, current)
                on_event(found, event)
        except TimeoutError as error:
            stopped = str(error)
            if time.monotonic() >= end + SPARE_SECONDS:  # it may be slow, and need not hang
                stopped, status = "it was stopped when the time was up", "not run"
            process.kill()
        except BaseException:
            process.kill()
            raise
        finally:
            events.close()
            code = _ended(process)
        if current is None and found.planned:
            return
        check = current or {"name": START, "kind": "backend"}
        _add(found, check, status, stopped or _death(code, said), on_event)


def _start(
    end: float, quick: bool, finished: list[str], command: Sequence[str], said: IO[str]
) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    reading, writing = os.pipe()
    arguments = ["--events", str(writing), "--seconds", f"{end - time.monotonic():.1f}"]
    arguments += ["--finished", json.dumps(finished), *(["--quick"] if quick else [])]
    process = subprocess.Popen(
        [*command, *arguments], stdout=said, stderr=said, pass_fds=(writing,)
    )
    os.close(writing)
    return process, os.fdopen(reading, "rb", buffering=0)


def _events(stream: IO[bytes], end: float, most: float) -> Iterator[dict[str, Any]]:
    """Yields events until the process has no more; TimeoutError if it says nothing for too long."""
    text = b""
    while True:
        left = min(end - time.monotonic(), most)
        ready, _, _ = select.select([stream], [], [], max(left, 0))
        if not ready:
            raise TimeoutError(f"it was stopped: it said nothing for {left:.0f} s")
        more = stream.read(1 << 16)
        if not more:
            return
        *lines, text = (text + more).split(b"\n")
        yield from map(json.loads, lines)


def _take(
    found: Found, event: dict[str, Any], current: dict[str, str] | None
) -> dict[str, str] | None:
    """Adds an event to what is known; returns the check that is running."""
    if event["event"] == "devices":
        found.devices, found.sizes = event["devices"], event["sizes"]
    elif event["event"] == "plan":
        found.planned = event["checks"]
    elif event["event"] == "begin":
        return {"name": event["name"], "kind": event["kind"]}
    else:
        found.results[event["result"]["name"]] = event["result"]
        return None
    return current


def _add(found: Found, check: dict[str, str], status: str, error: str, on_event: OnEvent) -> None:
    result = {**check, "status": status, "error": without_folders(error), "seconds": 0.0}
    found.results[check["name"]] = result
    on_event(found, {"event": "result", "result": result})


def _ended(process: subprocess.Popen[bytes]) -> int:
    """Returns the exit code; ends a process that has said all but doesn't end."""
    try:
        return process.wait(timeout=SPARE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _death(code: int, said: IO[str]) -> str:
    """Returns how a process ended, with the last line that tells why."""
    said.seek(0)
    lines = [line.strip() for line in said.read().splitlines() if line.strip()]
    telling = [line for line in lines if "rror" in line or line.startswith(("F0", "Fatal"))]
    last = (telling or lines or ["nothing"])[-1][:300]
    if code >= 0:
        return f"its process ended with exit code {code}; it said last: {last}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = "unknown"
    return f"its process was ended by signal {-code} ({name}); it said last: {last}"
