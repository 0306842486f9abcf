"""Handles SIGTERM and SIGINT as a request to save and end, at the same step in all processes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from types import FrameType
from typing import Any, Self, TypeVar

from stts_jax.training.distributed import Agreement

T = TypeVar("T")
SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Interval at which signals, of this process or another one, are looked for.
POLL_SECONDS = 0.25
_STOP = "stop"


class Stopped(Exception):  # noqa: N818 - it is no error
    """Raised in place of a result that is no longer waited for, as the run is to stop."""


class StopRequest:
    """Records SIGTERM and SIGINT while it is open, instead of ending the process.

    A second SIGINT interrupts at once: somebody at a terminal may not want to wait for a save.
    """

    def __init__(self, agreement: Agreement | None = None) -> None:
        # A signal may come in the middle of any line, so only `_record` writes `_signal`.
        self._signal: str | None = None
        self._received: str | None = None
        self._agreement = agreement or Agreement()
        self._before: dict[int, Any] = {}
        self._sent = False

    @property
    def reason(self) -> str | None:
        """Name of the signal that this process or another one got; None before."""
        return self._signal or self._received

    @property
    def requested(self) -> bool:
        """Whether a signal is known to have come, to this process or another one."""
        return self.reason is not None

    def __enter__(self) -> Self:
        # Python lets only the main thread take signals; elsewhere the program decides for itself.
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._record) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def exchange(self) -> bool:
        """Sends this process's signal, receives others'; returns whether the run is to stop."""
        if self._signal is None:
            self._received = self._received or self._agreement.received(_STOP)
        elif not self._sent:
            self._sent = True
            self._agreement.send(_STOP, self._signal)
        return self.requested

    def agreed_before(self, step: int) -> bool:
        """Returns whether all processes stop before a step; each of them calls this once a step.

        They wait for each other here, so either all of them make that step or none does, and no
        collective waits for a process that has stopped.
        """
        if self._agreement.alone:
            return self.requested
        if self.exchange():
            self._agreement.send(f"before/{step}", str(self.reason))
        meeting = in_background(lambda: self._agreement.meet(f"step/{step}"))
        while not wait_shortly(meeting):
            self.exchange()
        meeting.result()
        reason = self._agreement.received(f"before/{step}")
        self._received = self._received or reason
        return reason is not None

    def unless_stopped(self, function: Callable[[], T]) -> T:
        """Runs a function in a thread and returns its result.

        Raises:
          Stopped: if a signal comes first. The function then goes on, its result is ignored.
        """
        future = in_background(function)
        while not wait_shortly(future):
            if self.exchange():
                raise Stopped
        error = future.exception()
        # A signal to the process group ends data workers too, which is no error of the data.
        if error is not None and (self.exchange() or self._signal_follows()):
            raise Stopped from error
        return future.result()

    def _signal_follows(self) -> bool:
        threading.Event().wait(POLL_SECONDS)
        return self.exchange()

    def _record(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.requested:
            raise KeyboardInterrupt
        self._signal = signal.Signals(number).name


def in_background(function: Callable[[], T]) -> Future[T]:
    """Starts a function in a daemon thread."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True, name="stts_jax").start()
    return future


def wait_shortly(future: Future[Any]) -> bool:
    """Waits up to `POLL_SECONDS`, in which signals are handled; returns whether it is done."""
    try:
        future.exception(timeout=POLL_SECONDS)
    except TimeoutError:
        return future.done()
    return True
