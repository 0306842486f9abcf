"""Builds the index of a file of users' own data, or finds the one that is there.

Large files have theirs in a file: beside the data, or in the user's cache where that can't be
written. It is built under a lock, from work that is saved as it goes on, and takes its name when it
is whole. So it may be killed at any time, and several processes may ask for it at once.

The data are taken as unchanged while their size and the times of their last changes are; else
their content is compared by its SHA-256, and only other content is read again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from stts_jax.data.datasets.regular_file import require_regular_file
from stts_jax.data.mapped_files import take_room
from stts_jax.data.sources.index_files import content_hash, files_for, locked
from stts_jax.data.sources.line_file import LineFile
from stts_jax.data.sources.line_groups import arrange, group_lines
from stts_jax.data.sources.line_index import (
    Arrays,
    Header,
    LineIndex,
    Signature,
    allocate_index,
    checksum_of,
    in_memory,
    read_index,
    write_header,
)
from stts_jax.data.sources.media_key import line_key
from stts_jax.data.sources.own_line import Line, OwnDataError, parse_value
from stts_jax.data.sources.own_records import (
    Span,
    holds_list,
    line_records,
    list_records,
    parse_content,
)
from stts_jax.data.sources.quick_keys import quick_key

logger = logging.getLogger(__name__)

# Smaller data are read anew at each start, which takes a fraction of a second.
SAVED_FROM = 4 << 20
# Lines between two savings of the work.
SAVED_EVERY = 1 << 17
# Within this time of their last change data may be written again without a change of their times.
TIME_STEP = 2_000_000_000  # ns
# Names of fields that are not read, as far as they are said.
MOST_SKIPPED, MOST_LETTERS = 12, 24
_KINDS = {"offsets": "<i8", "numbers": "<i8", "lengths": "<u4", "digests": "V16"}


def index_of(file: LineFile) -> LineIndex:
    """Returns the index of a JSONL file, a JSON list, or the rows of tables.

    Raises:
      OwnDataError: if the file is missing or empty, or at the first line that is wrong.
    """
    path = file.path
    require_regular_file(path, "a .jsonl file", OwnDataError)
    if path.stat().st_size < SAVED_FROM:
        return _built(file, _Work(None))
    paths = files_for(path, "index")
    for index_path in paths:
        if (found := _known(index_path, file)) is not None:
            return found
    for index_path in paths:
        try:
            return _built_once(file, index_path)
        except OSError as error:
            logger.info("'%s' cannot be written (%s)", index_path, error.strerror or error)
    logger.warning(
        "the index of '%s' can be saved neither beside it nor in '%s'; it is built at every start",
        *(file.shown, paths[-1].parent),
    )
    return _built(file, _Work(None))


def _known(index_path: Path, file: LineFile) -> LineIndex | None:
    """The index that is there, if it is whole and of the data as they are."""
    index = read_index(index_path)
    if index is None:
        return None
    path, header = file.path, index.header
    signature = Signature.of(path.stat())
    if header.folder not in (None, str(file.folder)):
        return None
    if signature == header.signature and header.built - signature.modified > TIME_STEP:
        return index
    now = time.time_ns()
    if signature.size != header.signature.size or content_hash(path) != header.sha256:
        return None
    header = dataclasses.replace(header, signature=signature, built=now)
    with contextlib.suppress(OSError):  # another user's: compared at every start
        write_header(index_path, header)
    return LineIndex(header, index_path, index.arrays)


def _built_once(file: LineFile, index_path: Path) -> LineIndex:
    """Builds an index in a file, or waits for the process that does.

    Raises:
      OSError: if the file can't be written.
    """
    index_path.parent.mkdir(parents=True, exist_ok=True)
    folder = index_path.with_name(f"{index_path.name}.work")
    with locked(folder, file.shown):
        if (found := _known(index_path, file)) is not None:
            shutil.rmtree(folder, ignore_errors=True)
            return found
        begun = time.monotonic()
        logger.info("building the index of '%s' in '%s'", file.shown, index_path)
        try:
            index = _built(file, _Work(folder))
            assert index.path is not None
            index.path.replace(index_path)
        except (OSError, OwnDataError):  # there is nothing to go on from
            shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)
        seconds = time.monotonic() - begun
        logger.info("the index of '%s' took %.1f s", file.shown, seconds)
        return LineIndex(index.header, index_path)


# -------------------------------------------------------------------------------------- building


@dataclass
class _Columns:
    """Numbers of lines that are read and not yet saved."""

    offsets: list[int] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns them as arrays, in the kinds of `_KINDS`."""
        long = {
            name: np.array(getattr(self, name), _KINDS[name])
            for name in ("offsets", "numbers", "lengths")
        }
        return long | {"digests": np.frombuffer(b"".join(self.digests), _KINDS["digests"])}


class _Work:
    """The work on an index, saved in a folder or kept in memory (None).

    Attributes:
      lines: that are done.
      last: span of the last of them.
      absolute: whether one has an absolute path.
      skipped: names of fields that are not read.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._parts: list[dict[str, np.ndarray]] = []
        self.lines, self.absolute = 0, False
        self.skipped: set[str] = set()
        self.last: Span | None = None

    def resume(self, signature: Signature) -> Self:
        """Takes up what an earlier process has done on the same data."""
        if self._folder is None:
            return self
        try:
            saved = json.loads((self._folder / "progress.json").read_text())
            if saved.pop("signature") == dataclasses.asdict(signature):
                last = Span(*map(int, saved["last"]))
                lines, absolute = int(saved["lines"]), bool(saved["absolute"])
                for name, kind in _KINDS.items():
                    self._cut(name, lines * np.dtype(kind).itemsize)
                self.skipped = set(map(str, saved["skipped"]))
                self.lines, self.last, self.absolute = lines, last, absolute
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass  # nothing, or not of these data
        if self.last is None:
            for name in _KINDS:
                (self._folder / name).write_bytes(b"")
        return self

    def key(self, line: Line, file: LineFile) -> str:
        """Returns the key of a line, and notes what is to be known of all of them."""
        self.absolute |= line.names_absolute
        if line.skipped and len(self.skipped) < MOST_SKIPPED:
            self.skipped.update(line.skipped)
        return line_key(line, file.folder)

    def _cut(self, name: str, size: int) -> None:
        assert self._folder is not None
        path = self._folder / name
        if path.stat().st_size < size:
            raise ValueError(f"'{path}' lacks what was saved")
        os.truncate(path, size)

    def add(self, columns: _Columns, last: Span, signature: Signature) -> None:
        """Adds lines, of which the last is at `last`."""
        arrays = columns.arrays()
        self.lines, self.last = self.lines + len(columns.offsets), last
        if self._folder is None:
            self._parts.append(arrays)
            return
        for name, array in arrays.items():
            with (self._folder / name).open("ab") as file:
                file.write(array.tobytes())
                file.flush()
                os.fsync(file.fileno())
        progress = {
            "signature": dataclasses.asdict(signature),
            "lines": self.lines,
            "last": list(last),
            "absolute": self.absolute,
            "skipped": sorted(self.skipped),
        }
        draft = self._folder / "progress.new"
        draft.write_text(json.dumps(progress))
        draft.replace(self._folder / "progress.json")

    def columns(self) -> dict[str, np.ndarray]:
        """Returns the numbers of all lines."""
        if self._folder is None:
            return {name: np.concatenate([part[name] for part in self._parts]) for name in _KINDS}
        return {
            name: np.memmap(self._folder / name, kind, "r").view(np.ndarray)
            for name, kind in _KINDS.items()
        }

    def allocate(self, name: str, kind: type, length: int) -> np.ndarray:
        """Makes an array of zeros for what is computed."""
        if self._folder is None or not length:
            return np.zeros(length, kind)
        path = self._folder / f"{name}.array"
        array = np.memmap(path, kind, "w+", shape=(length,)).view(np.ndarray)
        take_room(path)
        return array

    def index_arrays(self, examples: int) -> tuple[Path | None, Arrays]:
        """Makes the arrays of the index, and their file."""
        if self._folder is None:
            return None, in_memory(self.lines, examples)
        path = self._folder / "index"
        return path, allocate_index(path, self.lines, examples)


def _built(file: LineFile, work: _Work) -> LineIndex:
    path = file.path
    signature, is_list = Signature.of(path.stat()), holds_list(path)
    work.resume(signature)
    _scan(file, is_list, work, signature)
    if not work.lines:
        raise OwnDataError(f"'{file.shown}' holds no examples; write one JSON object per line")
    columns = work.columns()
    digests = columns.pop("digests").view(np.uint64).reshape(-1, 2)
    numbers, examples, most = group_lines(digests, work.allocate)
    index_path, arrays = work.index_arrays(examples)
    arrange(columns, numbers, arrays, work.allocate)
    sha256, built = content_hash(path), time.time_ns()
    if Signature.of(path.stat()) != signature:
        raise OwnDataError(
            f"'{file.shown}' was written while it was read; start again when it is whole"
        )
    folder = str(file.folder) if work.absolute else None
    skipped = tuple(map(_said, sorted(work.skipped)[:MOST_SKIPPED]))
    header = Header(signature, sha256, work.lines, examples, most, folder, built, skipped)
    if index_path is None:
        return LineIndex(header, None, arrays)
    header = dataclasses.replace(header, checksum=checksum_of(index_path))
    write_header(index_path, header)
    return LineIndex(header, index_path, arrays)


def _said(name: str) -> str:
    """A field's name as it is said: its start, with halves of characters spelled out."""
    return name[:MOST_LETTERS].encode("utf-8", "backslashreplace").decode()


def _scan(file: LineFile, is_list: bool, work: _Work, signature: Signature) -> None:
    """Reads on to the end of the data."""
    columns, span = _Columns(), work.last
    offsets, numbers = columns.offsets.append, columns.numbers.append
    lengths, digests = columns.lengths.append, columns.digests.append
    keys = _keys_of_list(file, work) if is_list else _keys_of_lines(file, work)
    for span, key in keys:
        offset, length, number = span
        offsets(offset)
        lengths(length)
        numbers(number)
        digests(hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest())
        if len(columns.offsets) == SAVED_EVERY:
            work.add(columns, span, signature)
            columns = _Columns()
            offsets, numbers = columns.offsets.append, columns.numbers.append
            lengths, digests = columns.lengths.append, columns.digests.append
    if span is not None:
        work.add(columns, span, signature)


def _keys_of_lines(file: LineFile, work: _Work) -> Iterator[tuple[Span, str]]:
    last = work.last
    scan: Any = getattr(json.JSONDecoder(object_pairs_hook=_unique), "scan_once")  # noqa: B009
    after = (0, 0) if last is None else (last.offset + last.length, last.number)
    for span, content in line_records(file.path, *after, longest=file.longest):
        try:
            text = content.decode()  # type: ignore[union-attr]  # None goes the long way
            values, end = scan(text, 0)
            key = quick_key(values, work.skipped)
            if key is not None and (end == len(text) or text[end:].isspace()):
                yield span, key
                continue
        except (ValueError, AttributeError, StopIteration, RecursionError):
            pass  # said by the whole check
        line = parse_content(content, file.shown, span.number, file.longest)
        if line is not None:
            yield span, work.key(line, file)


def _keys_of_list(file: LineFile, work: _Work) -> Iterator[tuple[Span, str]]:
    for span, values in list_records(file.path, work.last):
        key = quick_key(values, work.skipped)
        if key is None:
            where = f"{file.shown}:{span.number}"
            key = work.key(parse_value(values, where, f"{file.name}:{span.number}"), file)
        yield span, key


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    return found
