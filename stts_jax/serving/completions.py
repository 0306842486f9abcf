"""`/v1/models` and `/v1/chat/completions`, as OpenAI's clients speak them."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from stts_jax.serving.bodies import read_json
from stts_jax.serving.chat_request import ChatRequest, parse_chat
from stts_jax.serving.errors import ServingError
from stts_jax.serving.service import Service, Submitted

_STARTED = int(time.time())


def list_models(service: Service) -> dict[str, Any]:
    """Returns the body of `/v1/models`."""
    model = {"id": service.name, "object": "model", "created": _STARTED, "owned_by": "stts_jax"}
    return {"object": "list", "data": [model]}


async def complete_chat(
    request: Request, service: Service, answered: Callable[[Submitted], None]
) -> Response:
    """Answers a conversation, at once or as it comes.

    Args:
      request: of the client.
      service: that answers.
      answered: is told of answers that have ended.
    """
    chat = parse_chat(await read_json(request, service.limits), service.limits, service.sampling)
    submitted = await unless_gone(request, service.submit(chat))
    form = _Form(chat, submitted, answered)
    if not chat.stream:
        text = await unless_gone(request, submitted.answer.whole())
        answered(submitted)
        return JSONResponse(form.completion(text))
    # The first piece before the head of the response: an error has a status of its own then.
    pieces = submitted.answer.pieces()
    first = await unless_gone(request, anext(pieces, ""))
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    events = form.events(first, pieces)
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)


async def unless_gone(request: Request, work: Awaitable[Any]) -> Any:
    """Returns what it awaits, or gives it up when the client is gone."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_until_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ServingError("the client is gone", 499, "cancelled")
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        continue


class _Form:
    """The objects of one answer."""

    def __init__(
        self, chat: ChatRequest, submitted: Submitted, answered: Callable[[Submitted], None]
    ) -> None:
        self._chat, self._submitted, self._answered = chat, submitted, answered
        self._id, self._created = f"chatcmpl-{uuid.uuid4().hex}", int(time.time())

    def completion(self, text: str) -> dict[str, Any]:
        """Returns the whole answer."""
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": None,
            "finish_reason": self._submitted.answer.finish_reason,
        }
        return self._object("chat.completion", [choice], **self._counts())

    async def events(self, first: str, pieces: AsyncIterator[str]) -> AsyncIterator[bytes]:
        """Yields the events of a stream; `first` is its first piece."""
        yield self._chunk({"role": "assistant", "content": first})
        try:
            async for piece in pieces:
                yield self._chunk({"content": piece})
        except ServingError as error:
            yield _event(error.content())
            return
        finally:
            await pieces.aclose()  # type: ignore[attr-defined]
        self._answered(self._submitted)
        counts = self._counts()
        yield self._chunk({}, self._submitted.answer.finish_reason, timings=counts["timings"])
        if self._chat.include_usage:
            yield _event(self._object("chat.completion.chunk", [], **counts))
        yield b"data: [DONE]\n\n"

    def _chunk(self, delta: dict[str, Any], reason: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return _event(self._object("chat.completion.chunk", [choice], **more))

    def _object(self, kind: str, choices: list[Any], **more: Any) -> dict[str, Any]:
        about = {"id": self._id, "object": kind, "created": self._created}
        return {**about, "model": self._chat.model, "choices": choices, **more}

    def _counts(self) -> dict[str, Any]:
        return {"usage": usage(self._submitted), "timings": timings(self._submitted)}


def usage(submitted: Submitted) -> dict[str, Any]:
    """Returns the tokens of an answer, and the visual tokens before and after the drop."""
    before, after = submitted.visual_tokens
    prompt, said = submitted.prompt_tokens, submitted.answer.count
    seen = submitted.answer.handle.media
    cached = prompt - submitted.question_tokens if seen is not None and seen.cached else 0
    return {
        "prompt_tokens": prompt,
        "completion_tokens": said,
        "total_tokens": prompt + said,
        "prompt_tokens_details": {"cached_tokens": cached},
        "visual_tokens_before": before,
        "visual_tokens_after": after,
    }


def timings(submitted: Submitted) -> dict[str, float | None]:
    """Returns milliseconds from the engine's queue to a slot, to the first token, and to the last.

    None for what hasn't come: a text that ends the answer may come before its last token.
    """
    times = submitted.answer.handle.times

    def since(moment: float | None) -> float | None:
        return None if moment is None else round(1e3 * (moment - times.submitted), 1)

    return {
        "started_ms": since(times.started),
        "first_token_ms": since(times.first_token),
        "finished_ms": since(times.finished),
    }


def _event(content: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n".encode()
