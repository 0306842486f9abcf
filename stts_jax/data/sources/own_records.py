"""The lines of a file of users' own data: one JSON object a line, or one JSON list of objects."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from stts_jax.data.datasets.regular_file import require_regular_file
from stts_jax.data.sources.own_line import Line, OwnDataError, parse, parse_value
from stts_jax.plain_files import unique_names

# Of a line in bytes. A film's subtitles are a hundredth of that, and no row holds more text.
LONGEST_LINE = 10_000_000
_LOOKED_AT = 4096
_SPACE = re.compile(r"[ \t\r\n]*")


def own_lines(path: str | Path) -> Iterator[Line | OwnDataError]:
    """All lines of a file, each parsed, or what is wrong with it.

    Raises:
      OwnDataError: if the file cannot be read at all.
    """
    path = Path(path)
    require_regular_file(path, "a .jsonl file", OwnDataError)
    try:
        with path.open("rb") as file:
            start = file.read(_LOOKED_AT)
        if start.startswith((b"\xff\xfe", b"\xfe\xff")) or start[:2].count(0) == 1:
            raise OwnDataError(f"'{path}' is not UTF-8 text; save it as UTF-8, one object per line")
        start = start.removeprefix(b"\xef\xbb\xbf").lstrip()
        if start.startswith(b"["):
            yield from _list_entries(path)
            return
        if _is_list_without_brackets(start):
            raise OwnDataError(
                f"{path}:1: a comma follows the object; write each object on a line of its own "
                "without one, or all in one list"
            )
        if _goes_on(start):
            raise OwnDataError(
                f"'{path}' has an object that goes over several lines; write each object on one "
                "line, or all in one list"
            )
        yield from _lines(path)
    except OSError as error:
        raise OwnDataError(
            f"'{path}' cannot be read: {error.strerror}; check its permissions and its disk"
        ) from error


def _is_list_without_brackets(start: bytes) -> bool:
    """Whether the first line is a whole object with a comma after it."""
    first, _, _ = start.partition(b"\n")
    try:
        return first.rstrip().endswith(b"},") and isinstance(json.loads(first.rstrip()[:-1]), dict)
    except (ValueError, RecursionError):
        return False


def _goes_on(start: bytes) -> bool:
    """Whether the first line ends within an object, right after a bracket or a comma."""
    first, end, _ = start.partition(b"\n")
    return bool(end) and first.startswith(b"{") and first.rstrip().endswith((b"{", b"[", b","))


def _lines(path: Path) -> Iterator[Line | OwnDataError]:
    number = 0
    for raw in _raw_lines(path):
        # Splits where a text editor does: str.splitlines would also split inside of JSON texts.
        for part in [None] if raw is None else raw.rstrip(b"\r\n").split(b"\r"):
            number += 1
            where = f"{path}:{number}"
            try:
                if part is None:
                    raise OwnDataError(
                        f"{where}: the line has over {LONGEST_LINE} bytes; shorten or remove it"
                    )
                text = _decoded(part, where)
                if text.strip():
                    yield parse(text, where, f"{path.name}:{number}")
            except OwnDataError as error:
                yield error


def _raw_lines(path: Path) -> Iterator[bytes | None]:
    """Lines with their ends; None for one that is too long."""
    with path.open("rb") as file:
        while raw := file.readline(LONGEST_LINE + 1):
            if len(raw) <= LONGEST_LINE:
                yield raw
                continue
            while raw and not raw.endswith(b"\n"):
                raw = file.readline(LONGEST_LINE)
            yield None


def _decoded(content: bytes, where: str) -> str:
    try:
        return content.decode("utf-8-sig")  # some editors begin a file with a mark
    except UnicodeDecodeError as error:
        raise OwnDataError(
            f"{where}: byte {content[error.start]:#04x} is not UTF-8; save the file as UTF-8"
        ) from error


def _list_entries(path: Path) -> Iterator[Line | OwnDataError]:
    """The entries of a list, each with the number of the line that it begins in."""
    text = _decoded(path.read_bytes(), str(path))
    decoder = json.JSONDecoder(object_pairs_hook=unique_names)
    position, number, counted = text.index("[") + 1, 1, 0
    while True:
        position = _after_space(text, position)
        number, counted = number + text.count("\n", counted, position), position
        if text.startswith("]", position):
            break
        where = f"{path}:{number}"
        try:
            value, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            deep = isinstance(error, RecursionError)
            reason = "too deeply nested" if deep else getattr(error, "msg", error)
            raise OwnDataError(
                f"{where}: an entry begins here that is not valid JSON ({reason}); correct it"
            ) from error
        try:
            yield parse_value(value, where, f"{path.name}:{number}")
        except OwnDataError as error:
            yield error
        position = _after_space(text, position)
        if text.startswith(",", position):
            position += 1
        elif not text.startswith("]", position):
            raise OwnDataError(f"{where}: the list goes on without a comma, or has no end; fix it")
    if _after_space(text, position + 1) < len(text):
        raise OwnDataError(
            f"'{path}' goes on after its list has ended; write one list, or one object per line"
        )


def _after_space(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    assert found is not None
    return found.end()
