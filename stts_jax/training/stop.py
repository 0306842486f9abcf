"""SIGTERM and SIGINT as a request: leave what can be left, save, and go; all processes at once."""

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
# How long it takes at most until a signal, here or in another process, is noticed.
POLL_SECONDS = 0.25
_ASKED = "stop"


class Stopped(Exception):  # noqa: N818 - it is no error
    """What was being waited for has been left, as the run is to stop."""


class StopRequest:
    """Notes SIGTERM and SIGINT while it is open, in place of dying of them.

    A second SIGINT interrupts at once: somebody at a terminal may not want to wait for a save.
    """

    def __init__(self, agreement: Agreement | None = None) -> None:
        # A signal may come in the middle of any line, so nothing but `_note` writes the first.
        self._signal: str | None = None
        self._heard: str | None = None
        self._agreement = agreement or Agreement()
        self._before: dict[int, Any] = {}
        self._told = False

    @property
    def reason(self) -> str | None:
        """Name of the signal that has come, here or to another process; None so far."""
        return self._signal or self._heard

    @property
    def requested(self) -> bool:
        """Whether a signal has come to this process, or another one is known to have one."""
        return self.reason is not None

    def __enter__(self) -> Self:
        # Python lets only the main thread take signals; elsewhere the program decides for itself.
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def look_around(self) -> bool:
        """Tell the other processes and hear from them; whether the run is to stop."""
        if self._signal is None:
            self._heard = self._heard or self._agreement.told(_ASKED)
        elif not self._told:
            self._told = True
            self._agreement.tell(_ASKED, self._signal)
        return self.requested

    def agreed_before(self, step: int) -> bool:
        """Whether all processes stop before they make a step; each of them must ask, once.

        They meet here, so either all of them go on to that step or none does, and what a step
        leaves behind is never waited for in vain.
        """
        if self._agreement.alone:
            return self.requested
        if self.look_around():
            self._agreement.tell(f"before/{step}", str(self.reason))
        meeting = in_background(lambda: self._agreement.meet(f"step/{step}"))
        while not wait_shortly(meeting):
            self.look_around()
        meeting.result()
        reason = self._agreement.told(f"before/{step}")
        self._heard = self._heard or reason
        return reason is not None

    def unless_stopped(self, function: Callable[[], T]) -> T:
        """The result of a function that runs beside the main thread, so that it can be left.

        Raises:
          Stopped: when a signal comes first. The function goes on, and nobody takes its result.
        """
        future = in_background(function)
        while not wait_shortly(future):
            if self.look_around():
                raise Stopped
        error = future.exception()
        # A signal to the process group ends worker processes too; theirs is no fault of the data.
        if error is not None and (self.look_around() or self._signal_follows()):
            raise Stopped from error
        return future.result()

    def _signal_follows(self) -> bool:
        threading.Event().wait(POLL_SECONDS)
        return self.look_around()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.requested:
            raise KeyboardInterrupt
        self._signal = signal.Signals(number).name


def in_background(function: Callable[[], T]) -> Future[T]:
    """Start a function in a thread that doesn't keep the program alive."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True, name="stts_jax").start()
    return future


def wait_shortly(future: Future[Any]) -> bool:
    """Whether it is done within `POLL_SECONDS`; signals are taken meanwhile."""
    try:
        future.exception(timeout=POLL_SECONDS)
    except TimeoutError:
        return future.done()
    return True
