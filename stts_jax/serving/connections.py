"""The protocol of a connection: one that stalls is closed, whichever side of it waits."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

# Seconds between looks at a connection.
_PERIOD = 2.0


class TimedProtocol(H11Protocol):
    """A connection that must send the head of a request in time, and take what it asked for."""

    header_seconds = 20.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts to watch."""
        super().connection_made(transport)
        self._since = time.monotonic()
        self._watch_later()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops watching."""
        self._timer.cancel()
        super().connection_lost(exc)

    def _watch_later(self) -> None:
        self._timer = self.loop.call_later(min(_PERIOD, self.header_seconds), self._watch)

    def _watch(self) -> None:
        """Closes the connection if it has waited too long for the head of a request.

        What is closing already, but is not taken by the client, is dropped.
        """
        now = time.monotonic()
        is_late = now - self._since > self.header_seconds
        if self.transport.is_closing():
            if is_late:
                self.transport.abort()
                return
        elif self._is_answering():
            self._since = now
        elif is_late:
            self._since = now
            self.transport.close()
        self._watch_later()

    def _is_answering(self) -> bool:
        cycle: Any = self.cycle
        return cycle is not None and not cycle.response_complete


def protocol_with(header_seconds: float) -> type[TimedProtocol]:
    """Returns a protocol with another limit."""
    return type("TimedProtocol", (TimedProtocol,), {"header_seconds": header_seconds})
