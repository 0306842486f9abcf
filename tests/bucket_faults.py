"""A proxy before the server of buckets that delays, refuses, cuts off and drops answers."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# Faults: what is done instead of passing on the answer.
UNAVAILABLE, RESET, CUT_OFF, HANG = "503", "reset", "cut off", "hang"


@dataclass
class Faults:
    """What goes wrong.

    Attributes:
      latency: seconds before each answer.
      fault_of: the fault of a request, by its number, method and path; None for none.
      done: how often each fault was done, and how many requests were passed on.
    """

    latency: float = 0.0
    fault_of: Callable[[int, str, str], str | None] = lambda number, method, path: None
    done: Counter[str] = field(default_factory=Counter)


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Says nothing of clients that have hung up."""


class FaultyProxy:
    """Passes requests on to a server at a port of this machine, with faults."""

    def __init__(self, port: int) -> None:
        self.faults = Faults()
        self._lock, self._number = threading.Lock(), 0
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def answer(self) -> None:
                proxy.answer(self, port)

        for method in ("GET", "POST", "PUT", "DELETE", "PATCH"):
            setattr(Handler, f"do_{method}", Handler.answer)
        self._server = _Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def answer(self, handler: BaseHTTPRequestHandler, port: int) -> None:
        faults = self.faults
        with self._lock:
            number, self._number = self._number, self._number + 1
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        fault = faults.fault_of(number, handler.command, handler.path)
        faults.done[fault or "passed"] += 1
        time.sleep(faults.latency)
        if fault == UNAVAILABLE:
            self._send(handler, 503, {"Content-Type": "text/plain"}, b"try again")
        elif fault == RESET:
            self._drop(handler)
        elif fault == HANG:
            time.sleep(600)
        else:
            status, headers, content = self._pass_on(handler, port, body)
            if fault == CUT_OFF and len(content) > 1:
                handler.send_response(status)
                for name, value in headers.items():
                    handler.send_header(name, value)
                handler.send_header("Content-Length", str(len(content)))
                handler.end_headers()
                handler.wfile.write(content[: len(content) // 2])
                self._drop(handler)
            else:
                self._send(handler, status, headers, content)

    def _pass_on(
        self, handler: BaseHTTPRequestHandler, port: int, body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        connection = HTTPConnection("127.0.0.1", port, timeout=60)
        headers = {n: v for n, v in handler.headers.items() if n.lower() != "connection"}
        connection.request(handler.command, handler.path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        skipped = ("content-length", "transfer-encoding", "connection", "date", "server")
        kept = {n: v for n, v in answer.getheaders() if n.lower() not in skipped}
        # An upload goes on at the address that the server names.
        if "Location" in kept:
            kept["Location"] = kept["Location"].replace(f":{port}/", f":{self.port}/")
        return answer.status, kept, content

    def _send(
        self, handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str], content: bytes
    ) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    def _drop(self, handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        handler.wfile.flush()
        linger = b"\x01\0\0\0\0\0\0\0"
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        handler.connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
