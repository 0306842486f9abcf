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
import fcntl
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np

from stts_jax.data.datasets.regular_file import require_regular_file
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
from stts_jax.data.sources.media_key import line_key, quick_key
from stts_jax.data.sources.own_line import OwnDataError, parse_value
from stts_jax.data.sources.own_records import (
    Place,
    holds_list,
    line_records,
    list_records,
    parse_content,
)

logger = logging.getLogger(__name__)

# Smaller data are read anew at each start, which takes a fraction of a second.
SAVED_FROM = 4 << 20
# Lines between two savings of the work.
SAVED_EVERY = 1 << 17
# Within this time of their last change data may be written again without a change of their times.
TIME_STEP = 2_000_000_000  # ns
_KINDS = {"offsets": "<i8", "numbers": "<i8", "lengths": "<u4", "digests": "V16"}
_WAIT_SECONDS = 0.2
_HASHED = 1 << 22


def index_of(path: Path) -> LineIndex:
    """Returns the index of a JSONL file or of a JSON list.

    Raises:
      OwnDataError: if the file is missing or empty, or at the first line that is wrong.
    """
    require_regular_file(path, "a .jsonl file", OwnDataError)
    if path.stat().st_size < SAVED_FROM:
        return _built(path, _Work(None))
    places = index_files(path)
    for place in places:
        if (found := _known(place, path)) is not None:
            return found
    for place in places:
        try:
            return _built_once(path, place)
        except OSError as error:
            logger.info("'%s' cannot be written (%s)", place, error.strerror or error)
    logger.warning(
        "the index of '%s' can be saved neither beside it nor in '%s'; it is built at every start",
        *(path, places[-1].parent),
    )
    return _built(path, _Work(None))


def index_files(path: Path) -> tuple[Path, Path]:
    """Returns where the index of a file may be: beside it, or in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:24]
    return path.with_name(f"{path.name}.index"), cache / "stts_jax" / "indexes" / f"{name}.index"


def _known(place: Path, path: Path) -> LineIndex | None:
    """The index that is there, if it is whole and of the data as they are."""
    index = read_index(place)
    if index is None:
        return None
    header, signature = index.header, Signature.of(path.stat())
    if header.folder not in (None, str(path.parent)):
        return None
    if signature == header.signature and header.built - signature.modified > TIME_STEP:
        return index
    now = time.time_ns()
    if signature.size != header.signature.size or content_hash(path) != header.sha256:
        return None
    header = dataclasses.replace(header, signature=signature, built=now)
    with contextlib.suppress(OSError):  # another user's: compared at every start
        write_header(place, header)
    return LineIndex(header, place, index.arrays)


def content_hash(path: Path) -> str:
    """Returns the SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _built_once(path: Path, place: Path) -> LineIndex:
    """Builds an index in a file, or waits for the process that does.

    Raises:
      OSError: if the file can't be written.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    folder = place.with_name(f"{place.name}.work")
    with _locked(folder, path):
        if (found := _known(place, path)) is not None:
            shutil.rmtree(folder, ignore_errors=True)
            return found
        begun = time.monotonic()
        logger.info("building the index of '%s' in '%s'", path, place)
        try:
            index = _built(path, _Work(folder))
            assert index.path is not None
            index.path.replace(place)
        except (OSError, OwnDataError):  # there is nothing to go on from
            shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)
        seconds = time.monotonic() - begun
        logger.info("the index of '%s' took %.1f s", path, seconds)
        return LineIndex(index.header, place)


@contextlib.contextmanager
def _locked(folder: Path, path: Path) -> Iterator[None]:
    """Waits until no other process works in a folder, which is made and may be gone after it."""
    said = False
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = (folder / "lock").open("ab")
        except FileNotFoundError:  # another process has just cleared it away
            continue
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not said:
                    logger.info("another process builds the index of '%s'; waiting for it", path)
                said = True
                time.sleep(_WAIT_SECONDS)
                continue
            if _is_at(lock, folder / "lock"):
                yield
                return


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


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
      last: place of the last of them.
      absolute: whether one has an absolute path.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._parts: list[dict[str, np.ndarray]] = []
        self.lines, self.absolute = 0, False
        self.last: Place | None = None

    def resume(self, signature: Signature) -> Self:
        """Takes up what an earlier process has done on the same data."""
        if self._folder is None:
            return self
        try:
            saved = json.loads((self._folder / "progress.json").read_text())
            if saved.pop("signature") == dataclasses.asdict(signature):
                last = Place(*map(int, saved["last"]))
                lines, absolute = int(saved["lines"]), bool(saved["absolute"])
                for name, kind in _KINDS.items():
                    self._cut(name, lines * np.dtype(kind).itemsize)
                self.lines, self.last, self.absolute = lines, last, absolute
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass  # nothing, or not of these data
        if self.last is None:
            for name in _KINDS:
                (self._folder / name).write_bytes(b"")
        return self

    def _cut(self, name: str, size: int) -> None:
        assert self._folder is not None
        path = self._folder / name
        if path.stat().st_size < size:
            raise ValueError(f"'{path}' lacks what was saved")
        os.truncate(path, size)

    def add(self, columns: _Columns, last: Place, signature: Signature) -> None:
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
        return np.memmap(path, kind, "w+", shape=(length,)).view(np.ndarray)

    def index_arrays(self, examples: int) -> tuple[Path | None, Arrays]:
        """Makes the arrays of the index, and their file."""
        if self._folder is None:
            return None, in_memory(self.lines, examples)
        path = self._folder / "index"
        return path, allocate_index(path, self.lines, examples)


def _built(path: Path, work: _Work) -> LineIndex:
    signature, is_list = Signature.of(path.stat()), holds_list(path)
    work.resume(signature)
    _scan(path, is_list, work, signature)
    if not work.lines:
        raise OwnDataError(f"'{path}' holds no examples; write one JSON object per line")
    columns = work.columns()
    digests = columns.pop("digests").view(np.uint64).reshape(-1, 2)
    numbers, examples, most = group_lines(digests, work.allocate)
    place, arrays = work.index_arrays(examples)
    arrange(columns, numbers, arrays, work.allocate)
    sha256, built = content_hash(path), time.time_ns()
    if Signature.of(path.stat()) != signature:
        raise OwnDataError(f"'{path}' was written while it was read; start again when it is whole")
    folder = str(path.parent) if work.absolute else None
    header = Header(signature, sha256, work.lines, examples, most, is_list, folder, built)
    if place is None:
        return LineIndex(header, None, arrays)
    header = dataclasses.replace(header, checksum=checksum_of(arrays))
    write_header(place, header)
    return LineIndex(header, place, arrays)


def _scan(path: Path, is_list: bool, work: _Work, signature: Signature) -> None:
    """Reads on to the end of the data."""
    columns, place = _Columns(), work.last
    offsets, numbers = columns.offsets.append, columns.numbers.append
    lengths, digests = columns.lengths.append, columns.digests.append
    keys = _keys_of_list(path, work) if is_list else _keys_of_lines(path, work)
    for place, key in keys:
        offset, length, number = place
        offsets(offset)
        lengths(length)
        numbers(number)
        digests(hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest())
        if len(columns.offsets) == SAVED_EVERY:
            work.add(columns, place, signature)
            columns = _Columns()
            offsets, numbers = columns.offsets.append, columns.numbers.append
            lengths, digests = columns.lengths.append, columns.digests.append
    if place is not None:
        work.add(columns, place, signature)


def _keys_of_lines(path: Path, work: _Work) -> Iterator[tuple[Place, str]]:
    last, folder = work.last, path.parent
    scan: Any = getattr(json.JSONDecoder(object_pairs_hook=_unique), "scan_once")  # noqa: B009
    after = (0, 0) if last is None else (last.offset + last.length, last.number)
    for place, content in line_records(path, *after):
        try:
            text = content.decode()  # type: ignore[union-attr]  # None goes the long way
            values, end = scan(text, 0)
            key = quick_key(values)
            if key is not None and (end == len(text) or text[end:].isspace()):
                yield place, key
                continue
        except (ValueError, AttributeError, StopIteration, RecursionError):
            pass  # said by the whole check
        line = parse_content(content, path, place.number)
        if line is not None:
            yield place, line_key(line, folder)
            work.absolute |= line.names_absolute


def _keys_of_list(path: Path, work: _Work) -> Iterator[tuple[Place, str]]:
    folder = path.parent
    for place, values in list_records(path, work.last):
        key = quick_key(values)
        if key is None:
            where = f"{path}:{place.number}"
            line = parse_value(values, where, f"{path.name}:{place.number}")
            key = line_key(line, folder)
            work.absolute |= line.names_absolute
        yield place, key


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    return found
