"""The records of a file of users' own data: one JSON object a line, or one JSON list of objects.

A record comes with its span in the file, so that it can be read again without what is before
it: offset and length in bytes, and the number of the line that it begins in.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from stts_jax.data.datasets.regular_file import require_regular_file
from stts_jax.data.sources.own_line import Line, OwnDataError, parse, parse_value
from stts_jax.plain_files import unique_names

# Of a line in bytes. A film's subtitles are a hundredth of that, and no row holds more text.
LONGEST_LINE = 10_000_000
_LOOKED_AT = 4096
_BUFFER = 1 << 20
_SPACE = re.compile(r"[ \t\r\n]*")
_NEWLINE = b"\n"


class Span(NamedTuple):
    """The bytes of a record.

    Attributes:
      offset, length: of its bytes, with the end of the line.
      number: of the line that it begins in, from 1.
    """

    offset: int
    length: int
    number: int


def own_lines(
    path: str | Path, shown: Path | None = None, longest: int | None = None
) -> Iterator[Line | OwnDataError]:
    """All lines of a file, each parsed, or what is wrong with it.

    Args:
      path: of the file.
      shown: path that messages name, `path` by default.
      longest: see `line_records`.

    Raises:
      OwnDataError: if the file cannot be read at all.
    """
    path = Path(path)
    shown = shown or path
    if holds_list(path):
        for span, value in list_records(path):
            yield _parsed_value(value, shown, span.number)
        return
    for span, content in line_records(path, longest=longest):
        try:
            line = parse_content(content, shown, span.number, longest)
        except OwnDataError as error:
            yield error
        else:
            if line is not None:
                yield line


def holds_list(path: Path) -> bool:
    """Returns whether a file is one JSON list; otherwise it has an object on each line.

    Raises:
      OwnDataError: if it can't be read, or is seen to be neither.
    """
    require_regular_file(path, "a .jsonl file", OwnDataError)
    with _named_errors(path), path.open("rb") as file:
        start = file.read(_LOOKED_AT)
    if start.startswith((b"\xff\xfe", b"\xfe\xff")) or start[:2].count(0) == 1:
        raise OwnDataError(f"'{path}' is not UTF-8 text; save it as UTF-8, one object per line")
    start = start.removeprefix(codecs.BOM_UTF8).lstrip()
    if start.startswith(b"["):
        return True
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
    return False


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Raises errors of the disk in the block as an `OwnDataError` that names the file."""
    try:
        yield
    except OSError as error:
        raise OwnDataError(
            f"'{path}' cannot be read: {error.strerror}; check its permissions and its disk"
        ) from error


def _is_list_without_brackets(start: bytes) -> bool:
    """Whether the first line is a whole object with a comma after it."""
    first, _, _ = start.partition(_NEWLINE)
    try:
        return first.rstrip().endswith(b"},") and isinstance(json.loads(first.rstrip()[:-1]), dict)
    except (ValueError, RecursionError):
        return False


def _goes_on(start: bytes) -> bool:
    """Whether the first line ends within an object, right after a bracket or a comma."""
    first, end, _ = start.partition(_NEWLINE)
    return bool(end) and first.startswith(b"{") and first.rstrip().endswith((b"{", b"[", b","))


# ------------------------------------------------------------------------------ object per line


def line_records(
    path: Path, offset: int = 0, number: int = 0, longest: int | None = None
) -> Iterator[tuple[Span, bytes | None]]:
    """The lines of a file, also blank ones; None for the content of one that is too long.

    Args:
      path: of the file.
      offset: to begin at, the end of a line that was read before.
      number: of the lines before that.
      longest: bytes of a line, `LONGEST_LINE` by default.
    """
    longest = longest or LONGEST_LINE
    with _named_errors(path), path.open("rb", buffering=_BUFFER) as file:
        file.seek(offset)
        while raw := file.readline(longest + 1):
            size, content = len(raw), raw
            if size > longest:
                size += _skip_line(file, raw)
                number += 1
                yield Span(offset, size, number), None
            elif b"\r" not in raw:
                number += 1
                yield Span(offset, size, number), content
            else:
                # Splits where a text editor does, and so would str.splitlines inside of texts.
                start, parts = offset, raw.rstrip(b"\r\n").split(b"\r")
                for left in range(len(parts) - 1, -1, -1):
                    part = parts[-1 - left]
                    number += 1
                    end = start + len(part) + 1 if left else offset + size
                    yield Span(start, end - start, number), part
                    start = end
            offset += size


def _skip_line(file: BinaryIO, raw: bytes) -> int:
    skipped = 0
    while raw and not raw.endswith(_NEWLINE):
        raw = file.readline(LONGEST_LINE)
        skipped += len(raw)
    return skipped


def parse_content(
    content: bytes | None, path: Path, number: int, longest: int | None = None
) -> Line | None:
    """Returns a line of its bytes, None of a blank one; for `longest` see `line_records`.

    Raises:
      OwnDataError: if it is wrong.
    """
    where = f"{path}:{number}"
    text = text_of(content, where, longest)
    return parse(text, where, f"{path.name}:{number}") if text.strip() else None


def text_of(content: bytes | None, where: str, longest: int | None = None) -> str:
    """The text of a line; OwnDataError if it is too long (None), or no UTF-8."""
    if content is None:
        raise OwnDataError(
            f"{where}: the line has over {longest or LONGEST_LINE} bytes; shorten or remove it"
        )
    try:
        return content.decode("utf-8-sig")  # some editors begin a file with a mark
    except UnicodeDecodeError as error:
        raise OwnDataError(
            f"{where}: byte {content[error.start]:#04x} is not UTF-8; save the file as UTF-8"
        ) from error


def _parsed_value(value: Any, path: Path, number: int) -> Line | OwnDataError:
    try:
        return parse_value(value, f"{path}:{number}", f"{path.name}:{number}")
    except OwnDataError as error:
        return error


# ------------------------------------------------------------------------------------- one list


def list_records(path: Path, after: Span | None = None) -> Iterator[tuple[Span, Any]]:
    """The entries of a list, read piece by piece.

    Args:
      path: of the file.
      after: go on after the entry that is here; by default begin.

    Raises:
      OwnDataError: if it is no valid list.
    """
    with _named_errors(path), path.open("rb") as file:
        yield from _ListReader(path, file).entries(after)


class _ListReader:
    """Reads a list through a window of its text, which moves on after every entry."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self._json = json.JSONDecoder(object_pairs_hook=unique_names)
        self._text, self._at, self._ended = "", 0, False
        self._offset, self._number = 0, 1  # of the text at `_at`

    def entries(self, after: Span | None) -> Iterator[tuple[Span, Any]]:
        if after is None:
            self._more()
            if self._file_starts_with_mark():
                self._offset = len(codecs.BOM_UTF8)
            self._space()
            self._step(self._at + 1)  # its bracket
        else:
            self._file.seek(after.offset)
            inside = self._file.read(after.length)
            self._offset = after.offset + after.length
            self._number = after.number + inside.count(_NEWLINE)
            self._more()
            self._comma(after.number)
        while not self._starts_with("]"):
            span, value = self._entry()
            yield span, value
            self._comma(span.number)
        self._step(self._at + 1)
        self._space()
        if self._at < len(self._text):
            raise OwnDataError(
                f"'{self._path}' goes on after its list has ended; write one list, or one object "
                "per line"
            )

    def _file_starts_with_mark(self) -> bool:
        here = self._file.tell()
        self._file.seek(0)
        found = self._file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8
        self._file.seek(here)
        return found

    def _entry(self) -> tuple[Span, Any]:
        where, needed = f"{self._path}:{self._number}", _BUFFER
        while True:
            try:
                value, end = self._json.raw_decode(self._text, self._at)
                if isinstance(value, dict) or self._ended or end < len(self._text):
                    break
            except (ValueError, RecursionError) as error:
                if self._ended or isinstance(error, RecursionError) or needed > 4 * LONGEST_LINE:
                    deep = isinstance(error, RecursionError)
                    reason = "too deeply nested" if deep else getattr(error, "msg", error)
                    raise OwnDataError(
                        f"{where}: an entry begins here that is not valid JSON ({reason}); "
                        "correct it"
                    ) from error
            self._more(needed)
            needed *= 2
        offset, number = self._offset, self._number
        self._step(end)
        return Span(offset, self._offset - offset, number), value

    def _comma(self, number: int) -> None:
        """Reads the comma after an entry, if the list goes on."""
        self._space()
        if self._starts_with(","):
            self._step(self._at + 1)
            self._space()
        elif not self._starts_with("]"):
            raise OwnDataError(
                f"{self._path}:{number}: the list goes on without a comma, or has no end; fix it"
            )

    def _space(self) -> None:
        while True:
            found = _SPACE.match(self._text, self._at)
            assert found is not None
            self._step(found.end())
            if self._at < len(self._text) or self._ended:
                return
            self._more()

    def _starts_with(self, letter: str) -> bool:
        self._space()
        return self._text.startswith(letter, self._at)

    def _step(self, end: int) -> None:
        """Moves on to a position of the text."""
        passed = self._text[self._at : end]
        self._offset += len(passed.encode())
        self._number += passed.count("\n")
        self._at = end

    def _more(self, size: int = _BUFFER) -> None:
        """Reads on, and forgets what is passed."""
        content = self._file.read(size)
        self._ended = not content
        try:
            text = self._decode(content, final=self._ended)
        except UnicodeDecodeError as error:
            raise OwnDataError(
                f"{self._path}: byte {error.object[error.start]:#04x} is not UTF-8; save the file "
                "as UTF-8"
            ) from error
        self._text, self._at = self._text[self._at :] + text, 0
