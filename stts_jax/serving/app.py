"""The web application: which address does what, and what is around all of them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stts_jax.serving.access import Access
from stts_jax.serving.bodies import BodyRoom
from stts_jax.serving.completions import complete_chat, list_models
from stts_jax.serving.errors import ServingError, closing
from stts_jax.serving.kept_tokens import show_kept, upload_media
from stts_jax.serving.limits import Limits
from stts_jax.serving.metrics import CONTENT_TYPE, Metrics
from stts_jax.serving.service import Service

logger = logging.getLogger("stts.access")
PAGE = Path(__file__).with_name("page")
# The page loads nothing from elsewhere, and is shown in no frame of another site.
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
        "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
Endpoint = Callable[[Request, Service], Awaitable[Response]]


class Readiness:
    """Whether requests are answered yet: programs are compiled, and the server isn't closing."""

    def __init__(self) -> None:
        """Starts as not ready."""
        self.is_ready = False


def make_app(
    service: Service,
    access: Access,
    readiness: Readiness,
    drain_seconds: float = 30.0,
    start: Callable[[], None] | None = None,
) -> ASGIApp:
    """Returns the application.

    Args:
      service: that answers.
      access: who may ask.
      readiness: what `/ready` says.
      drain_seconds: that answers under way have when the server closes.
      start: compiles, in a thread, while the server answers `/health` already.
    """
    metrics = Metrics(service)

    async def models(request: Request, service: Service) -> Response:
        return JSONResponse(list_models(service))

    async def chat(request: Request, service: Service) -> Response:
        return await complete_chat(request, service, metrics.answered)

    async def health(request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def ready(request: Request) -> Response:
        text, status = ("ready\n", 200) if readiness.is_ready else ("not ready\n", 503)
        return PlainTextResponse(text, status)

    async def numbers(request: Request) -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    def guarded(endpoint: Endpoint) -> Callable[[Request], Awaitable[Response]]:
        async def respond(request: Request) -> Response:
            access.require_key(request)
            if not readiness.is_ready and request.method != "GET":
                raise ServingError(
                    "the server is starting or closing; come again", 503, headers=_SOON
                )
            return await endpoint(request, service)

        return respond

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        starting = asyncio.ensure_future(asyncio.to_thread(start or (lambda: None)))
        starting.add_done_callback(lambda task: _note_start(task, readiness))
        try:
            yield
        finally:
            readiness.is_ready = False
            await asyncio.to_thread(service.engine.close, drain_seconds)
            await service.pool.close()
            service.close()

    routes = [
        Route("/health", health),
        Route("/ready", ready),
        Route("/metrics", numbers),
        Route("/v1/models", guarded(models)),
        Route("/v1/chat/completions", guarded(chat), methods=["POST"]),
        Route("/v1/media", guarded(upload_media), methods=["POST"]),
        Route("/v1/kept", guarded(show_kept), methods=["POST"]),
        Mount("/", StaticFiles(directory=PAGE, html=True)),
    ]
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers=_HANDLERS)
    return _Around(app, access, metrics, service.limits)


_SOON = {"Retry-After": "5"}


def _note_start(task: asyncio.Future[None], readiness: Readiness) -> None:
    error = None if task.cancelled() else task.exception()
    readiness.is_ready = not task.cancelled() and error is None
    if error is not None:
        logger.error("the programs could not be compiled", exc_info=error)


class _Around:
    """What is around all requests: limits on time and bytes, errors, headers, a line in the log."""

    def __init__(self, app: ASGIApp, access: Access, metrics: Metrics, limits: Limits) -> None:
        self._app, self._access, self._metrics = app, access, metrics
        self._seconds, self._room = limits.request_seconds, BodyRoom(limits.bodies_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.monotonic(), 0

        async def send_noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                added = [(k.lower().encode(), v.encode()) for k, v in _HEADERS.items()]
                message["headers"] = [*message["headers"], *added]
            await send(message)

        request = Request(scope, receive)
        try:
            async with asyncio.timeout(self._seconds):
                self._access.require_host(request)
                with self._room.counted(receive) as counted:
                    await self._app(scope, counted, send_noted)
        except Exception as error:
            if status:  # half of the response is sent: the connection ends without the rest
                logger.warning("a response was not finished: %s", type(error).__name__)
            else:
                await _response_to(error)(scope, receive, send_noted)
        except asyncio.CancelledError:  # the server ends, and waits no longer
            if not status:
                await _response_to(closing())(scope, receive, send_noted)
        finally:
            self._note(scope, status or 499, time.monotonic() - started)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        """Writes a line without what was asked, answered or looked at."""
        route = getattr(scope.get("route"), "path", "other")
        route = route or "page"
        self._metrics.responded(route, status)
        logger.info("%s %s %d %.3f s", scope["method"], route, status, seconds)


def _response_to(error: Exception) -> Response:
    if isinstance(error, HTTPException):
        error = ServingError(f"{error.detail}; see docs/serving.md", error.status_code)
    elif isinstance(error, TimeoutError):
        error = ServingError("the request took too long; send less, or ask again", 504, "timeout")
    elif not isinstance(error, ServingError):
        logger.error("a request failed", exc_info=error)
        error = ServingError("the server failed; ask again", 500, "failed")
    return JSONResponse(error.content(), error.status, dict(error.headers))


async def _respond_to(request: Request, error: Exception) -> Response:
    return _response_to(error)


_HANDLERS = dict.fromkeys((ServingError, HTTPException, Exception), _respond_to)
