"""Checks lines of the usual forms in a fraction of the time that the whole check takes.

A line that passes is one that `own_line.parse_value` takes, and its key is that of `line_key`; of
any other line nothing is said. `tests/test_data_quick_keys.py` holds the two against each other.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Any

from stts_jax.data.sources.checked_fields import LONGEST_PATH, LONGEST_SECONDS

_ASKED = frozenset(("video", "images", "question", "answer", "options", "caption", "clip"))
_NAMED = frozenset(("type", "id"))
_OWN = _ASKED | _NAMED
_CONVERSATIONS = frozenset(("conversations", "video", "image")) | _NAMED
_MESSAGES = frozenset(("messages", "videos", "images")) | _NAMED
_TURN, _MESSAGE, _TEXT = {"from", "value"}, {"role", "content"}, {"type", "text"}
_MARKS = ("<image>", "<video>")


def quick_key(values: Any, skipped: AbstractSet[str] = frozenset()) -> str | None:
    """Returns the key of a line of a usual form, None for one that needs a closer look.

    Args:
      values: of a line's JSON.
      skipped: fields beside `messages` and `conversations` that are known not to be read.
    """
    if type(values) is not dict:
        return None
    for name in ("type", "id"):
        value = values.get(name)
        if not (value is None or type(value) is int or (type(value) is str and value.isascii())):
            return None
    names = values.keys()
    if names <= _OWN:
        return _own_key(values)
    if "conversations" in names:
        return _conversation_key(values) if names - skipped <= _CONVERSATIONS else None
    if "messages" in names:
        return _messages_key(values) if names - skipped <= _MESSAGES else None
    return None


# ------------------------------------------------------------------------------------- our lines


def _own_key(values: dict[str, Any]) -> str | None:
    if not (_is_question(values) if "question" in values else _is_caption(values)):
        return None
    if "images" in values:
        pictures = values["images"]
        return None if "video" in values or "clip" in values else _key_of_pictures(pictures)
    video, clip = values.get("video"), values.get("clip")
    if type(video) is not str or not _is_plain_path(video):
        return None
    if clip is None:
        return f"{video!r}None"
    if type(clip) is not list or len(clip) != 2:
        return None
    start, end = clip
    if type(start) not in (int, float) or type(end) not in (int, float):
        return None
    if not 0 <= start < end < LONGEST_SECONDS:
        return None
    return f"{video!r}{(start + 0.0, end + 0.0)}"


def _is_question(values: dict[str, Any]) -> bool:
    question, answer, options = values["question"], values.get("answer"), values.get("options")
    if type(question) is not str or type(answer) is not str or "caption" in values:
        return False
    if not question.strip() or not answer.strip() or not _is_whole(question + answer):
        return False
    if options is None:
        return True
    if type(options) is not list or len(options) < 2 or answer not in options:
        return False
    for option in options:
        if type(option) is not str or not option.strip():
            return False
    return len(set(options)) == len(options) and _is_whole("".join(options))


def _is_caption(values: dict[str, Any]) -> bool:
    caption = values.get("caption")
    if type(caption) is not str or not caption.strip() or not _is_whole(caption):
        return False
    return "answer" not in values and "options" not in values


def _key_of_pictures(pictures: Any) -> str | None:
    if type(pictures) is not list or not pictures:
        return None
    for picture in pictures:
        if type(picture) is not str or not _is_plain_path(picture):
            return None
    return f"NoneNone{tuple(pictures)}None"


def _is_plain_path(path: str) -> bool:
    """Whether a path is relative, names no address or content, and is written in one way only."""
    return (
        0 < len(path) <= LONGEST_PATH
        and not path.isspace()
        and path[0] not in "/. "
        and path[-1] not in "/. "
        and ":" not in path
        and "//" not in path
        and "/./" not in path
        and "\0" not in path
        and _is_whole(path)
    )


def _is_whole(text: str) -> bool:
    """Whether a text holds no half characters, as JSON can write them."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# ------------------------------------------------------------------------ lines of other programs


def _conversation_key(values: dict[str, Any]) -> str | None:
    """Of turns that are the human's and the model's by turns, about a video or a picture."""
    turns = values["conversations"]
    if type(turns) is not list or not turns or len(turns) % 2:
        return None
    marks = 0
    for number, turn in enumerate(turns):
        if type(turn) is not dict or turn.keys() != _TURN:
            return None
        if turn["from"] != ("gpt" if number % 2 else "human"):
            return None
        text = turn["value"]
        if type(text) is not str:
            return None
        if number == 0 and text[:7] in _MARKS:
            marks, mark, text = 1, text[:7], text[7:]
        if not _is_said(text, number):
            return None
    video, picture = values.get("video"), values.get("image")
    if video is None:
        if marks and mark != "<image>":
            return None
        return _key_of_pictures([picture])
    if picture is not None or type(video) is not str or not _is_plain_path(video):
        return None
    return f"{video!r}None"


def _messages_key(values: dict[str, Any]) -> str | None:
    """Of a user's and an assistant's messages by turns, perhaps below a system's."""
    messages = values["messages"]
    if type(messages) is not list or not messages:
        return None
    shown: list[tuple[str, str | None]] = []
    first = 0
    for number, message in enumerate(messages):
        if type(message) is not dict or message.keys() != _MESSAGE:
            return None
        role, content = message["role"], message["content"]
        if number == 0 and role == "system" and type(content) is str and _is_whole(content):
            first = 1
            continue
        turn = number - first
        if role != ("assistant" if turn % 2 else "user"):
            return None
        text = content if type(content) is str else _text_of(content, turn, shown)
        if text is None:
            return None
        while turn == 0 and text[:7] in _MARKS:
            shown.append((text[1:6], None))
            text = text[7:]
        if not _is_said(text, turn):
            return None
    if len(messages) == first or (len(messages) - first) % 2:
        return None
    return _key_of_shown(values, shown)


def _text_of(content: Any, turn: int, shown: list[tuple[str, str | None]]) -> str | None:
    """The text of a content's parts, of which those of media come first."""
    if type(content) is not list:
        return None
    text = ""
    for part in content:
        if type(part) is not dict:
            return None
        kind = part.get("type")
        if kind == "text" and part.keys() == _TEXT and type(part["text"]) is str:
            text += part["text"]
            if part["text"][:1] == "<":  # no mark where it is a part
                return None
        elif turn == 0 and not text and kind in ("image", "video") and len(part) <= 2:
            path = part.get(kind, part.get("path"))
            if len(part) == 2 and type(path) is not str:
                return None
            shown.append((kind, path))
        else:
            return None
    return text


def _key_of_shown(values: dict[str, Any], shown: list[tuple[str, str | None]]) -> str | None:
    """The key of one video or of pictures that all are listed, or all named in messages."""
    listed = {"video": values.get("videos"), "image": values.get("images")}
    for files in listed.values():
        if files is not None and type(files) is not list:
            return None
    kinds = {kind for kind, files in listed.items() if files} | {kind for kind, _ in shown}
    if len(kinds) != 1:
        return None
    kind = kinds.pop()
    named = [path for _, path in shown if path is not None]
    files = listed[kind]
    if named:
        if files or len(named) != len(shown):
            return None
        files = named
    elif not files or (shown and len(shown) != len(files)):
        return None
    if kind == "image":
        return _key_of_pictures(files)
    if len(files) != 1 or type(files[0]) is not str or not _is_plain_path(files[0]):
        return None
    return f"{files[0]!r}None"


def _is_said(text: str, turn: int) -> bool:
    """Whether a turn's text is not empty, and holds no mark where it is the user's."""
    if turn % 2 == 0 and ("<image>" in text or "<video>" in text):
        return False
    return bool(text.strip()) and _is_whole(text)
