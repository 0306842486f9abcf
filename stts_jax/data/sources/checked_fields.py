"""Access to the fields of a line of users' own data, each of which may hold anything."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Any

from stts_jax.buckets.address import GS, is_address
from stts_jax.data.datasets.base import DatasetError
from stts_jax.data.embedded import is_data_uri

SHOWN_CHARACTERS = 80
# Names that other programs give to a field.
OTHER_NAMES = {
    **dict.fromkeys(("video_path", "video_file", "videos"), "video"),
    **dict.fromkeys(("image", "image_path", "picture", "pictures"), "images"),
    **dict.fromkeys(("query", "prompt", "instruction", "problem"), "question"),
    **dict.fromkeys(("response", "output", "label", "target", "solution"), "answer"),
    **dict.fromkeys(("choices", "candidates"), "options"),
    **dict.fromkeys(("conversation", "dialog", "dialogue", "history"), "turns"),
    **dict.fromkeys(("subtitles", "srt"), "subtitle"),
}
PATHS = ("video", "images")
LONGEST_SECONDS = 1e9
LONGEST_PATH = 4096
_CONTENT = re.compile(r"data:\w+/[\w.+-]+[;,]")


class OwnDataError(DatasetError):
    """A line that cannot be used; the message names file, line, field, value and remedy."""


@dataclass(frozen=True)
class Fields:
    """The fields of a line, or of a part of it, with checked access."""

    values: dict[str, Any]
    where: str
    inside: str = ""  # name of the field that they are in

    def has(self, key: str) -> bool:
        """A field that is null counts as absent."""
        return self.values.get(key) is not None

    def error(self, key: str, remedy: str) -> OwnDataError:
        """Names the field and its value."""
        value = shown(self.values.get(key))
        return OwnDataError(f"{self.where}: field '{self.inside}{key}' is {value}; {remedy}")

    def require_known(self, known: tuple[str, ...]) -> None:
        for key in self.values:
            if key not in known:
                close = difflib.get_close_matches(key[:SHOWN_CHARACTERS], known, n=1)
                meant = OTHER_NAMES.get(key.lower()) or (close[0] if close else None)
                remedy = f"write '{meant}'" if meant in known else f"use {', '.join(known)}"
                raise OwnDataError(
                    f"{self.where}: field {shown(self.inside + key)} is unknown; {remedy}"
                )

    def name(self, key: str) -> str | None:
        """A text that names a line or its group; anything else in its place as it is written."""
        value = self.values.get(key)
        if value is None:
            return None
        return self.whole_text(value, key) if isinstance(value, str) else shown(value)

    def text(self, key: str) -> str:
        if key not in self.values:
            raise OwnDataError(f"{self.where}: field '{self.inside}{key}' is missing; add it")
        return self.checked_text(self.values[key], key)

    def checked_text(self, value: Any, key: str) -> str:
        if not isinstance(value, str) or not value.strip():
            raise OwnDataError(
                f"{self.where}: field '{self.inside}{key}' is {shown(value)}; it must be text, "
                "not empty"
            )
        if key in PATHS:
            self.require_path(value, key)
        return self.whole_text(value, key)

    def whole_text(self, value: str, key: str) -> str:
        try:
            value.encode()
        except UnicodeEncodeError as error:  # as JSON can write
            raise OwnDataError(
                f"{self.where}: field '{self.inside}{key}' is {shown(value)}, which holds half a "
                "character; write it again"
            ) from error
        return value

    def require_path(self, value: str, key: str) -> None:
        """Refuse what can't be the path of a file."""
        if key == "images" and is_data_uri(value):
            return
        if "\0" in value:
            raise self.error(key, "no path holds a zero character; remove it")
        if _CONTENT.match(value[:LONGEST_PATH]):
            raise self.error(
                key,
                "it holds a file's content, and that is read of pictures alone; save it to a file, "
                "as python -m stts_jax.data convert does",
            )
        if len(value) > LONGEST_PATH:
            raise self.error(key, f"no path is longer than {LONGEST_PATH} letters; correct it")
        if is_address(value) and not value.startswith(GS):
            raise OwnDataError(
                f"{self.where}: field '{self.inside}{key}' is {shown(value)}, an address, and "
                "addresses other than gs:// are not fetched; download the file and write its path"
            )

    def texts(self, key: str, least: int) -> tuple[str, ...]:
        values = self.values[key]
        if not isinstance(values, list) or len(values) < least:
            number = "one text" if least == 1 else "two texts"
            raise self.error(key, f"it must be a list of {number} or more")
        return tuple(self.checked_text(value, key) for value in values)

    def parts(self, key: str, known: tuple[str, ...]) -> list[Fields]:
        """A list of objects with the fields `known`."""
        values = self.values[key]
        if not isinstance(values, list) or not values:
            raise self.error(key, f"it must be a list of objects with {', '.join(known)}")
        parts = []
        for number, value in enumerate(values):
            part = Fields(value, self.where, f"{key}[{number}].")
            if not isinstance(value, dict):
                raise OwnDataError(
                    f"{self.where}: field '{key}[{number}]' is {shown(value)}; write an object "
                    f"with {', '.join(known)}"
                )
            part.require_known(known)
            parts.append(part)
        return parts

    def seconds(self, key: str) -> float:
        if key not in self.values:
            raise OwnDataError(f"{self.where}: field '{self.inside}{key}' is missing; add it")
        if not is_seconds(self.values[key]):
            raise self.error(key, "it must be a number of seconds, 0 or more")
        return float(self.values[key])


def is_seconds(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 <= value < LONGEST_SECONDS


def shown(value: Any) -> str:
    """Returns the start of a value as Python writes it; a text may be millions of letters long.

    Raises:
      RecursionError: if it is nested too deeply to be written.
    """
    text = repr(value[: 10 * SHOWN_CHARACTERS] if isinstance(value, str) else value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."
