"""What a client is told when a request can't be served."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ServingError(Exception):
    """A request that isn't served; the message is one sentence with the remedy, for the client.

    Attributes:
      message: it names neither paths nor addresses of the server.
      status: of HTTP.
      code: a word for programs, or None.
      param: the field of the request that is wrong, or None.
      headers: of the response.
    """

    def __init__(
        self,
        message: str,
        status: int = 400,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message, self.status, self.code = message, status, code
        self.param, self.headers = param, dict(headers or {})

    def content(self) -> dict[str, Any]:
        """Returns the body of the response, as OpenAI's clients read it."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}


def closing() -> ServingError:
    """Returns the error of a server that is told to end."""
    return ServingError("the server is closing; ask another one", 503, headers={"Retry-After": "5"})


def too_busy(message: str, seconds: int = 2) -> ServingError:
    """Returns the error of a full queue, with the seconds after which to come again."""
    return ServingError(message, 429, "too_busy", headers={"Retry-After": str(seconds)})
