"""Reads the body of a chat request, and says in the client's words what is wrong with it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from stts_jax.inference.sampling import Sampling
from stts_jax.quoting import shorten
from stts_jax.serving.errors import ServingError
from stts_jax.serving.limits import Limits

Prune = float | Literal["auto"] | None
# Values of fields that this server doesn't have, at which they mean nothing.
_NOTHING: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "tools": ([],),
    "functions": ([],),
    "audio": (),
    "modalities": (["text"],),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
}
_PARTS = {"image_url": "image", "video_url": "video"}
_STOPS, _STOP_LETTERS = 4, 1000
_SEEDS = 2**63


@dataclass(frozen=True)
class MediaPart:
    """A picture or video of a message: `image` or `video`, and its address."""

    kind: Literal["image", "video"]
    address: str


@dataclass(frozen=True)
class MediaOptions:
    """How a video is read; None for what the model was trained with.

    Attributes:
      prune: share of its visual tokens that are dropped, or `auto`, by the model's threshold.
      frames: that are looked at, at most.
      fps: at which they are taken.
    """

    prune: Prune = None
    frames: int | None = None
    fps: float | None = None


@dataclass(frozen=True)
class ChatRequest:
    """A conversation to be continued.

    Attributes:
      model: name.
      question: the last message.
      earlier: questions and answers before.
      media: of all messages, in order.
      options: how a video is read.
      max_tokens: of the answer; None for the server's.
      sampling: how its tokens are chosen; None for the model's own settings.
      seed: of sampling.
      stop: texts that end the answer.
      stream: whether it is sent as it comes.
      include_usage: whether the counts are sent at the end of a stream.
    """

    model: str
    question: str
    earlier: tuple[tuple[str, str], ...] = ()
    media: tuple[MediaPart, ...] = ()
    options: MediaOptions = field(default_factory=MediaOptions)
    max_tokens: int | None = None
    sampling: Sampling | None = None
    seed: int = 0
    stop: tuple[str, ...] = ()
    stream: bool = False
    include_usage: bool = False


def parse_chat(body: Any, limits: Limits, default: Sampling | None = None) -> ChatRequest:
    """Returns the request of a body.

    Args:
      body: as JSON was read.
      limits: on pictures.
      default: how tokens are chosen, where the body doesn't say.

    Raises:
      ServingError: if it can't be answered.
    """
    body = _mapping(body, "the body", None)
    for name, idle in _NOTHING.items():
        if body.get(name) is not None and body[name] not in idle:
            raise _wrong(f"{name} is {shorten(body[name])}, which this server doesn't have", name)
    question, earlier, media = _conversation(body.get("messages"), limits)
    streaming = body.get("stream_options") or {}
    return ChatRequest(
        model=_text(body.get("model"), "model"),
        question=question,
        earlier=earlier,
        media=media,
        options=parse_media_options(body, limits),
        max_tokens=_max_tokens(body),
        sampling=_sampling(body, default or Sampling()),
        seed=_whole(body, "seed", 0, _SEEDS - 1) or 0,
        stop=_stop(body.get("stop")),
        stream=_flag(body, "stream"),
        include_usage=_flag(_mapping(streaming, "stream_options", None), "include_usage"),
    )


def parse_media_options(body: Mapping[str, Any], limits: Limits) -> MediaOptions:
    """Returns the fields `prune`, `frames` and `fps` of a body.

    vLLM's `media_io_kwargs` are understood too.

    Raises:
      ServingError: if they can't be.
    """
    theirs = _mapping(body.get("media_io_kwargs") or {}, "media_io_kwargs", None)
    theirs = _mapping(theirs.get("video") or {}, "media_io_kwargs.video", None)
    read = {
        "frames": body.get("frames", theirs.get("num_frames")),
        "fps": body.get("fps", theirs.get("fps")),
    }
    if read["frames"] == -1:  # all that there are
        read["frames"] = None
    frames = _whole(read, "frames", 1, limits.frames)
    return MediaOptions(_prune(body.get("prune")), frames, _number(read, "fps", 0.01, 120.0))


def parse_media_part(value: Any, kind: Any) -> MediaPart:
    """Returns the picture or video that a body names.

    Args:
      value: its address, or an object with the field `url`.
      kind: `image` or `video`.

    Raises:
      ServingError: if it is neither.
    """
    if kind not in ("image", "video"):
        raise _wrong(f"type is {shorten(kind)}; use image or video", "type")
    if isinstance(value, Mapping):
        value = value.get("url")
    if not isinstance(value, str) or not value:
        raise _wrong(f"a {kind} has no address; give its 'url'", "messages")
    return MediaPart(kind, value)


# ------------------------------------------------------------------------------------- messages


def _conversation(
    messages: Any, limits: Limits
) -> tuple[str, tuple[tuple[str, str], ...], tuple[MediaPart, ...]]:
    """Returns the last question, the turns before, and all media."""
    if not isinstance(messages, list) or not messages:
        raise _wrong("messages is empty; give at least one, of the role user", "messages")
    media: list[MediaPart] = []
    said: list[tuple[str, list[str]]] = []  # (role, texts), system among the user's
    for message in messages:
        message = _mapping(message, "a message", "messages")
        role = _role(message.get("role"))
        text, parts = _content(message.get("content"))
        if parts and role == "assistant":
            raise _wrong("a picture or video is the assistant's; send it as the user", "messages")
        media.extend(parts)
        if not said or said[-1][0] != role:
            said.append((role, []))
        said[-1][1].append(text)
    if said[-1][0] != "user":
        raise _wrong("the last message is the assistant's; end with one of the user", "messages")
    if said[0][0] != "user":
        raise _wrong("the first message is the assistant's; begin with the user's", "messages")
    texts = ["\n".join(filter(None, turn)) for _, turn in said]
    if not all(texts[::2]):
        raise _wrong("a message of the user has no text; ask something", "messages")
    _require_media(media, limits)
    # An answer that was cut off at once may be empty.
    earlier = tuple(
        (asked, answer or "-") for asked, answer in zip(texts[:-1:2], texts[1::2], strict=True)
    )
    return texts[-1], earlier, tuple(media)


def _require_media(media: list[MediaPart], limits: Limits) -> None:
    videos = sum(part.kind == "video" for part in media)
    if videos > 1 or (videos and len(media) > 1):
        raise _wrong(
            f"there are {videos} videos and {len(media) - videos} pictures; ask about one video, "
            "or about pictures",
            "messages",
        )
    if len(media) > limits.images:
        raise _wrong(
            f"there are {len(media)} pictures, and this server takes {limits.images}", "messages"
        )


def _role(role: Any) -> str:
    if role in ("user", "system", "developer"):
        return "user"
    if role == "assistant":
        return "assistant"
    raise _wrong(f"a message has role {shorten(role)}; use system, user or assistant", "messages")


def _content(content: Any) -> tuple[str, list[MediaPart]]:
    """Returns text and media of a message."""
    if content is None or isinstance(content, str):
        return (content or "").strip(), []
    if not isinstance(content, list):
        raise _wrong("the content of a message is neither text nor a list of parts", "messages")
    texts, media = [], []
    for part in content:
        part = _mapping(part, "a part of a message", "messages")
        kind = part.get("type")
        if kind == "text":
            texts.append(_text(part.get("text"), "text"))
        elif isinstance(kind, str) and kind in _PARTS:
            media.append(parse_media_part(part.get(kind), _PARTS[kind]))
        else:
            raise _wrong(
                f"a part of a message is of type {shorten(kind)}; use text, image_url or video_url",
                "messages",
            )
    return "\n".join(texts).strip(), media


# --------------------------------------------------------------------------------------- fields


def _prune(value: Any) -> Prune:
    if value is None or value == "auto":
        return value
    if not _is_number(value) or not 0 <= value < 1:
        raise _wrong(
            f"prune is {shorten(value)}; give the share of a video's visual tokens to drop, from 0 "
            "to below 1, or 'auto'",
            "prune",
        )
    return float(value)


def _max_tokens(body: Mapping[str, Any]) -> int | None:
    name = "max_tokens" if body.get("max_completion_tokens") is None else "max_completion_tokens"
    return _whole(body, name, 1, 2**31 - 1)


def _sampling(body: Mapping[str, Any], default: Sampling) -> Sampling:
    values = {
        "temperature": _number(body, "temperature", 0.0, 2.0),
        "top_p": _number(body, "top_p", 1e-6, 1.0),
        "top_k": _whole(body, "top_k", 0, 2**31 - 1) if body.get("top_k") != -1 else 0,
    }
    given = {name: value for name, value in values.items() if value is not None}
    return Sampling(
        temperature=given.get("temperature", default.temperature),
        top_k=int(given.get("top_k", default.top_k)),
        top_p=given.get("top_p", default.top_p),
    )


def _stop(value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value or []
    if not isinstance(texts, list) or len(texts) > _STOPS:
        raise _wrong(f"stop is {shorten(value)}; give up to {_STOPS} texts", "stop")
    stops = tuple(_text(text, "stop") for text in texts)
    longest = max(map(len, stops), default=0)
    if longest > _STOP_LETTERS:  # each is looked for at every token
        raise _wrong(
            f"a text of stop has {longest:,} letters; give up to {_STOP_LETTERS:,}", "stop"
        )
    return stops


def _whole(body: Mapping[str, Any], name: str, least: int, most: int) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if not _is_number(value) or value != int(value) or not least <= value <= most:
        raise _wrong(
            f"{name} is {shorten(value)}; give a whole number from {least} to {most}", name
        )
    return int(value)


def _number(body: Mapping[str, Any], name: str, least: float, most: float) -> float | None:
    value = body.get(name)
    if value is None:
        return None
    if not _is_number(value) or not least <= value <= most:
        raise _wrong(f"{name} is {shorten(value)}; give a number from {least:g} to {most:g}", name)
    return float(value)


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, int) or math.isfinite(value)  # an int may be too large for a float


def _flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value not in (None, True, False):
        raise _wrong(f"{name} is {shorten(value)}; give true or false", name)
    return bool(value)


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value:
        raise _wrong(f"{name} is no text; give one", name)
    return value


def _mapping(value: Any, what: str, param: str | None) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _wrong(f"{what} is no object of JSON; give one", param)
    return value


def _wrong(message: str, param: str | None) -> ServingError:
    return ServingError(message, param=param)
