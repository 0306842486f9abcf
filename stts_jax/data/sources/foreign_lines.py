"""Lines in the formats of other programs, as lines of users' own data.

- `conversations` (ShareGPT, LLaVA): `{"video": "a.mp4", "conversations": [{"from": "human",
  "value": "<video>What?"}, {"from": "gpt", "value": "a cat"}]}`
- `messages` (OpenAI, ms-swift): `{"messages": [{"role": "user", "content": "<video>What?"}, ...],
  "videos": ["a.mp4"]}`, where a content may also be a list of parts.

- `captions` (ShareGPT4Video): `{"video_path": "a.mp4", "captions": [{"idx": "-1", "content":
  "A cat sleeps."}, ...]}`, of which the one with `idx` -1 is about the whole video.

A video or pictures are shown before the first question, wherever their mark is in it. A system
turn is put before the first question's text, as the models' chat form has none. Answers may be left
out of what is learnt: with `"weight": 0` as OpenAI has it, `"loss": false` (ms-swift), or
`"train": false` (Axolotl). LLaVA-Video-178K marks its videos with `<image>`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stts_jax.data.sources.checked_fields import shown

CONVERSATIONS, MESSAGES, CAPTIONS = "conversations", "messages", "captions"
KEPT_FIELDS = ("clip", "subtitle", "type", "id")
OWN_FORMS = ("question", "answer", "options", "caption", "turns")
# These say something that would be lost.
REFUSED_FIELDS = (
    *("audio", "audios", "tools", "functions", "objects"),
    *("chosen", "rejected", "rejected_response", "rejected_messages", "rejected_conversations"),
)
ROLES = {
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bard", "bing", "model", "bot"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
}
KINDS = ("video", "image")
# The idx of a caption of ShareGPT4Video that is about the whole video.
WHOLE_VIDEO = "-1"
# What tells whether a turn is learnt: of OpenAI, ms-swift and Axolotl.
LEARNT_FIELDS = ("weight", "loss", "train", "training")
_TURN_FIELDS = ("system", "video", "videos", "image", "images")
_MARK = re.compile(r"<(video|image)>")


class ForeignLineError(ValueError):
    """A line of another format that can't be read; the message follows the file's name and line."""


@dataclass(frozen=True)
class Mark:
    """Stands in a message where a video or picture is shown.

    Attributes:
      kind: of what is shown, one of `KINDS`.
      path: of its file, if the message names it.
    """

    kind: str
    path: str | None = None


Content = list[str | Mark]


@dataclass(frozen=True)
class Message:
    """A turn of a conversation: `user`, `assistant` or `system`, and what is said.

    Attributes:
      learnt: False where its format says that the turn is not to be learnt.
    """

    role: str
    content: Content
    learnt: bool = True


def is_foreign(record: dict[str, Any]) -> bool:
    """Whether a record is in one of these formats."""
    return any(record.get(form) is not None for form in (CONVERSATIONS, MESSAGES, CAPTIONS))


def own_fields(record: dict[str, Any]) -> dict[str, Any]:
    """The fields of our lines that say the same as a record of another format.

    Raises:
      ForeignLineError: if it says what our lines can't.
    """
    if record.get(CONVERSATIONS) is None and record.get(MESSAGES) is None:
        return _captioned(record)
    form = CONVERSATIONS if record.get(CONVERSATIONS) is not None else MESSAGES
    for name in (*OWN_FORMS, MESSAGES if form == CONVERSATIONS else CONVERSATIONS):
        if record.get(name) is not None:
            raise ForeignLineError(f"there is '{name}' beside '{form}'; keep one of them")
    for name in REFUSED_FIELDS:
        if record.get(name):
            raise ForeignLineError(f"field '{name}' beside '{form}' is not read; remove it")
    read = _conversation if form == CONVERSATIONS else _message
    turns = record[form]
    if not isinstance(turns, list) or not turns:
        raise ForeignLineError(f"field '{form}' is {shown(turns)}; it must be a list of objects")
    messages = [read(turn, f"{form}[{number}]") for number, turn in enumerate(turns)]
    if isinstance(record.get("system"), str):
        messages.insert(0, Message("system", [record["system"]]))
    system, asked = _without_system(messages, form)
    if _listed(record, "video") and not _listed(record, "image"):
        asked = [_of_video(message) for message in asked]
    media = _media(record, asked)
    kept = {name: record[name] for name in KEPT_FIELDS if name in record}
    return {**kept, **media, "turns": _turns(system, asked, _count(media))}


def _captioned(record: dict[str, Any]) -> dict[str, Any]:
    """The fields of a line of ShareGPT4Video: the caption of its whole video."""
    captions = record[CAPTIONS]
    whole = [
        part.get("content")
        for part in (captions if isinstance(captions, list) else [])
        if isinstance(part, dict) and str(part.get("idx")) == WHOLE_VIDEO
    ]
    if len(whole) != 1:
        raise ForeignLineError(
            f"field '{CAPTIONS}' is {shown(captions)}; it must be a list of objects with idx and "
            f"content, of which one has the idx {WHOLE_VIDEO}, the whole video's"
        )
    for name in OWN_FORMS:
        if record.get(name) is not None:
            raise ForeignLineError(f"there is '{name}' beside '{CAPTIONS}'; keep one of them")
    video = record.get("video")
    if video is None:
        video = record.get("video_path")
    kept = {name: record[name] for name in KEPT_FIELDS if name in record}
    return {**kept, "video": video, "caption": whole[0]}


def skipped_fields(record: dict[str, Any]) -> tuple[str, ...]:
    """Returns the names of fields that a record has and `own_fields` leaves out."""
    if record.get(CONVERSATIONS) is None and record.get(MESSAGES) is None:
        read: tuple[str, ...] = (CAPTIONS, "video_path", "video", *KEPT_FIELDS, *OWN_FORMS)
    else:
        read = (CONVERSATIONS, MESSAGES, *KEPT_FIELDS, *_TURN_FIELDS, *OWN_FORMS, *REFUSED_FIELDS)
    return tuple(name for name, value in record.items() if value is not None and name not in read)


# ----------------------------------------------------------------------------------- messages


def _conversation(turn: Any, where: str) -> Message:
    """A turn of `conversations`: who it is from, and its text as value."""
    return _of_turn(turn, where, "from", "value")


def _message(turn: Any, where: str) -> Message:
    """A turn of `messages`: its role, and a text or a list of parts as content."""
    return _of_turn(turn, where, "role", "content")


def _of_turn(turn: Any, where: str, role_key: str, content_key: str) -> Message:
    if isinstance(turn, dict) and role_key not in turn and "role" in turn:
        role_key, content_key = "role", "content"  # some programs take either in either
    elif isinstance(turn, dict) and role_key not in turn and "from" in turn:
        role_key, content_key = "from", "value"
    if not isinstance(turn, dict) or content_key not in turn:
        raise ForeignLineError(
            f"field '{where}' is {shown(turn)}; write an object with {role_key} and {content_key}"
        )
    role = ROLES.get(turn[role_key]) if isinstance(turn.get(role_key), str) else None
    if role is None:
        raise ForeignLineError(
            f"field '{where}.{role_key}' is {shown(turn.get(role_key))}, a turn that is not read; "
            "use user, assistant and system"
        )
    for name in ("tool_calls", "function_call", "train_detail", "training_detail"):
        if turn.get(name):
            raise ForeignLineError(f"field '{where}.{name}' is not read; remove it")
    learnt = _is_learnt(turn, where)
    content = turn[content_key]
    parts = content if isinstance(content, list) else [content]
    found = [piece for part in parts for piece in _pieces(part, f"{where}.{content_key}", role)]
    return Message(role, found, learnt or role != "assistant")


def _is_learnt(turn: dict[str, Any], where: str) -> bool:
    learnt = True
    for name in LEARNT_FIELDS:
        value = turn.get(name)
        if value is None:
            continue
        if not isinstance(value, int | float) or value not in (0, 1):
            raise ForeignLineError(
                f"field '{where}.{name}' is {shown(value)}; write 0 or false for an answer that is "
                "not learnt, and 1 or true for one that is"
            )
        learnt = learnt and bool(value)
    return learnt


def _pieces(part: Any, where: str, role: str) -> Iterator[str | Mark]:
    """A text with its marks, or a part of a content."""
    if isinstance(part, str):
        yield from _marked(part) if role == "user" else [part]
        return
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("text", "input_text", "output_text") and isinstance(part.get("text"), str):
        yield part["text"]
        return
    media = kind.removeprefix("input_").removesuffix("_url") if isinstance(kind, str) else None
    if role == "user" and media in KINDS:
        yield Mark(media, _path(part, media, where))
        return
    raise ForeignLineError(
        f"field '{where}' is {shown(part)}; a content is a text, or a list of parts of type text, "
        "and of type image or video where the user speaks"
    )


def _marked(text: str) -> Iterator[str | Mark]:
    for number, piece in enumerate(_MARK.split(text)):
        if number % 2:
            yield Mark(piece)
        elif piece:
            yield piece


def _path(part: dict[str, Any], kind: str, where: str) -> str | None:
    """The file that a part names, in any of the ways in use."""
    for name in (kind, f"{kind}_url", "path", "url", "base64"):
        value = part.get(name)
        if isinstance(value, dict):
            value = value.get("url")
        if isinstance(value, str) and name == "base64":
            value = f"data:{kind}/unknown;base64,{value}"
        if value is not None:
            if not isinstance(value, str):
                raise ForeignLineError(f"field '{where}' is {shown(part)}; name a file in it")
            return value
    return None


def _without_system(messages: Sequence[Message], form: str) -> tuple[str, Sequence[Message]]:
    """Splits the text of a system turn at the start from the turns after it, which it checks."""
    system = ""
    if messages[0].role == "system":
        system, messages = _text(messages[0].content).strip(), messages[1:]
    for number, message in enumerate(messages):
        expected = ("user", "assistant")[number % 2]
        if message.role != expected:
            raise ForeignLineError(
                f"turn {number + 1} of '{form}' is the {message.role}'s, and should be the "
                f"{expected}'s; join turns of one speaker, and let the user begin"
            )
    if not messages or len(messages) % 2:
        raise ForeignLineError(f"'{form}' does not end with an answer; add one, or remove the line")
    return system, messages


def _of_video(message: Message) -> Message:
    """A message about a video alone, with `<image>` for `<video>` as LLaVA-Video has it."""
    if any(isinstance(piece, Mark) and piece.kind == "video" for piece in message.content):
        return message
    content = [Mark("video") if piece == Mark("image") else piece for piece in message.content]
    return replace(message, content=content)


def _turns(system: str, messages: Sequence[Message], files: int) -> list[dict[str, Any]]:
    """Questions and answers; only the first question may have marks."""
    asked, said = messages[::2], messages[1::2]
    if any(isinstance(piece, Mark) for message in asked[1:] for piece in message.content):
        raise ForeignLineError(
            "a later turn shows a video or picture, and all are shown before the first question; "
            "make two lines of it"
        )
    questions = [_question(asked[0].content, files), *(_text(m.content) for m in asked[1:])]
    if system:
        questions[0] = f"{system}\n\n{questions[0]}"
    turns: list[dict[str, Any]] = [
        {"question": question, "answer": _text(answer.content)}
        for question, answer in zip(questions, said, strict=True)
    ]
    for turn, answer in zip(turns, said, strict=True):
        if not answer.learnt:
            turn["weight"] = 0
    return turns


def _question(content: Content, files: int) -> str:
    """The text without marks at its ends; one inside of it names its picture by number."""
    first = 0
    while first < len(content) and _is_edge(content[first]):
        first += 1
    last = len(content)
    while last > first and _is_edge(content[last - 1]):
        last -= 1
    number = sum(isinstance(piece, Mark) for piece in content[:first])
    texts = []
    for piece in content[first:last]:
        if isinstance(piece, Mark):
            if files == 1:
                raise ForeignLineError(
                    f"'<{piece.kind}>' stands within a question, but a video or picture is shown "
                    "before it; move it to the start"
                )
            number += 1
            piece = f"Image {number}"  # what pictures of a group are called
        texts.append(piece)
    return "".join(texts).strip()


def _is_edge(piece: str | Mark) -> bool:
    return isinstance(piece, Mark) or not piece.strip()


def _text(content: Content) -> str:
    return "".join(piece for piece in content if isinstance(piece, str))


# -------------------------------------------------------------------------------------- media


def _media(record: dict[str, Any], messages: Sequence[Message]) -> dict[str, Any]:
    """`video` or `images`, from the record's fields or named in messages."""
    marks = [p for message in messages for p in message.content if isinstance(p, Mark)]
    files: dict[str, list[str]] = {}
    for kind in KINDS:
        listed = _listed(record, kind)
        of_kind = [mark for mark in marks if mark.kind == kind]
        named = [mark.path for mark in of_kind if mark.path is not None]
        if named and (listed or len(named) < len(of_kind)):
            raise ForeignLineError(
                f"some {kind}s are named in messages and others beside them; name all in one way"
            )
        files[kind] = listed or named
        if of_kind and len(of_kind) != len(files[kind]):
            raise ForeignLineError(
                f"there are {len(of_kind)} '<{kind}>' for {len(files[kind])} {kind}s; write one "
                "for each, or none"
            )
    if len(files["video"]) > 1:
        raise ForeignLineError(
            f"there are {len(files['video'])} videos, and a line shows one; make several lines"
        )
    video = {"video": files["video"][0]} if files["video"] else {}
    return {**video, **({"images": files["image"]} if files["image"] else {})}


def _listed(record: dict[str, Any], kind: str) -> list[str]:
    """The files that a record lists as `video` or `videos`, or of pictures likewise."""
    found: list[str] = []
    for name in (kind, f"{kind}s"):
        value = record.get(name)
        if value is None or value == []:
            continue
        entries = value if isinstance(value, list) else [value]
        listed = [entry.get("path") if isinstance(entry, dict) else entry for entry in entries]
        paths = [path for path in listed if isinstance(path, str)]
        if found or len(paths) < len(listed):
            raise ForeignLineError(
                f"field '{name}' is {shown(value)}; write the path of a file, or a list of paths"
            )
        found = paths
    return found


def _count(media: dict[str, Any]) -> int:
    return len(media.get("images", ())) or len(media)
