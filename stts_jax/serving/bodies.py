"""Reads bodies of requests under limits."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive

from stts_jax.serving.errors import ServingError, too_busy
from stts_jax.serving.limits import Limits


class BodyRoom:
    """Bytes that the bodies of all requests under way may have together."""

    def __init__(self, limit: int) -> None:
        """Starts empty."""
        self._limit, self._taken = limit, 0

    @contextlib.contextmanager
    def counted(self, receive: Receive) -> Iterator[Receive]:
        """Gives what receives the messages of a request; its bytes count until the block ends.

        Raises:
          ServingError: in receiving, if there is no room for more.
        """
        taken = 0

        async def receive_counted() -> Message:
            nonlocal taken
            message = await receive()
            nbytes = len(message.get("body", b""))
            if self._taken + nbytes > self._limit:
                raise too_busy("too much is being sent to this server at once; come again")
            self._taken, taken = self._taken + nbytes, taken + nbytes
            return message

        try:
            yield receive_counted
        finally:
            self._taken -= taken


async def read_json(request: Request, limits: Limits) -> Any:
    """Returns what a body says.

    Only JSON by its own name: a page of another site can't send that without being allowed to.

    Raises:
      ServingError: if it is too large, or no JSON.
    """
    require_type(request, "application/json")
    content = await read_body(request, limits.body_bytes)
    try:
        return await asyncio.to_thread(json.loads, content)
    except (ValueError, RecursionError) as error:
        raise ServingError("the body is no JSON; send an object of it") from error


def require_type(request: Request, *kinds: str) -> str:
    """Returns the type of a body, without its parameters.

    Raises:
      ServingError: if it is none of these; `video/` stands for all that begin so.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not any(
        kind == known or (known.endswith("/") and kind.startswith(known)) for known in kinds
    ):
        named = ", ".join(f"{known}*" if known.endswith("/") else known for known in kinds)
        raise ServingError(f"the Content-Type of the body is not one of {named}; name it", 415)
    return kind


async def read_body(request: Request, most: int) -> bytes:
    """Returns a body of at most so many bytes.

    Raises:
      ServingError: if it has more, or the client is gone.
    """
    too_large = ServingError(
        f"the body has more than the {most:,} bytes that this server takes; send less",
        413,
        "too_large",
    )
    named = request.headers.get("content-length", "0")
    if named.isdecimal() and int(named[:20]) > most:
        raise too_large
    content = bytearray()
    try:
        async for chunk in request.stream():
            content += chunk
            if len(content) > most:
                raise too_large
    except ClientDisconnect as error:
        raise ServingError("the client is gone", 499, "cancelled") from error
    return bytes(content)
