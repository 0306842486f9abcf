"""What tells lines about the same media from others, found quickly for lines of the usual form."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from stts_jax.data.embedded import is_data_uri
from stts_jax.data.sources.checked_fields import LONGEST_PATH, LONGEST_SECONDS
from stts_jax.data.sources.own_line import Line

QUICK_FIELDS = frozenset(
    ("video", "question", "answer", "options", "caption", "clip", "type", "id")
)


def line_key(line: Line, folder: Path) -> str:
    """Returns a text that is the same for two lines if their media are equal, and only then.

    Args:
      line: any that is right.
      folder: that its paths are relative to. A file in it may be named by its whole path too.
    """
    subtitle: Any = line.subtitle
    if line.subtitle_is_file:
        subtitle = ("file", _named(str(line.subtitle).strip(), folder))
    elif isinstance(subtitle, tuple):
        subtitle = tuple((start + 0.0, end + 0.0, text) for start, end, text in subtitle)
    clip = None if line.clip is None else (line.clip[0] + 0.0, line.clip[1] + 0.0)
    video = None if line.video is None else _named(line.video, folder)
    images = tuple(_named(image, folder) for image in line.images)
    if not images and subtitle is None:
        return f"{video!r}{clip}"
    return f"{video!r}{clip}{images}{subtitle!r}"


def quick_key(values: Any) -> str | None:
    """Returns the key of a line of the usual form, None for one that needs a closer look.

    A line that has one here is right: `own_line.parse_value` takes it too.

    Args:
      values: of a line's JSON.
    """
    if type(values) is not dict or not values.keys() <= QUICK_FIELDS:
        return None
    video, clip = values.get("video"), values.get("clip")
    if type(video) is not str or not _is_plain_path(video):
        return None
    if not (_is_question(values, video) or _is_caption(values, video)):
        return None
    for name in ("type", "id"):
        value = values.get(name)
        if not (value is None or type(value) is int or (type(value) is str and value.isascii())):
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


def _named(path: str, folder: Path) -> str:
    if is_data_uri(path):
        return path
    named = PurePosixPath(path)
    if named.is_absolute() and named.is_relative_to(folder):
        named = named.relative_to(folder)
    return str(named)


def _is_plain_path(path: str) -> bool:
    """Whether a path is relative, names no address or content, and is written in one way only."""
    return (
        0 < len(path) <= LONGEST_PATH
        and path[0] not in "/. "
        and path[-1] not in "/. "
        and ":" not in path
        and "//" not in path
        and "/./" not in path
        and "\0" not in path
    )


def _is_question(values: dict[str, Any], video: str) -> bool:
    question, answer, options = (values.get(name) for name in ("question", "answer", "options"))
    if type(question) is not str or type(answer) is not str or "caption" in values:
        return False
    if not question.strip() or not answer.strip() or not _is_whole(video + question + answer):
        return False
    if options is None:
        return True
    if type(options) is not list or len(options) < 2 or answer not in options:
        return False
    for option in options:
        if type(option) is not str or not option.strip():
            return False
    return len(set(options)) == len(options) and _is_whole("".join(options))


def _is_caption(values: dict[str, Any], video: str) -> bool:
    caption = values.get("caption")
    if type(caption) is not str or not caption.strip() or not _is_whole(video + caption):
        return False
    return "question" not in values and "answer" not in values and "options" not in values


def _is_whole(text: str) -> bool:
    """Whether a text holds no half characters, as JSON can write them."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
