"""Records of published datasets in a file that all processes map, instead of objects in each.

The file is in the user's cache. It is taken while all that the dataset has looked at is unchanged,
annotations by size and times, and while the code that reads them is; otherwise they are read
again. It holds JSON, and is checked when it is opened.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import mmap
import os
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stts_jax.data.cache_files import cache_file
from stts_jax.data.datasets.looked_at import Seen, is_unchanged, newest, noting

logger = logging.getLogger(__name__)

# Fewer are kept in memory.
STORED_FROM = 5000
MAGIC = b"stts_jax records 1\n"
HEADER_BYTES = 4096
# Files that were written within this time before they were read may be written again without a
# change of their times.
TIME_STEP = 2_000_000_000  # ns
_PLAIN = (type(None), bool, int, float, str)


class UnstorableError(TypeError):
    """A record of a kind that has no form in a file."""


@dataclass(frozen=True)
class _Header:
    records: int
    records_bytes: int
    seen_bytes: int
    code: str
    checksum: int


class StoredRecords(Sequence[Any]):
    """Records of a file, each made when it is asked for.

    A process that is sent them gets the file's name and maps it itself.
    """

    def __init__(self, path: Path, header: _Header, kinds: Sequence[type]) -> None:
        """Take the records of a file that is known to be whole."""
        self._path, self._header = path, header
        self._kinds = {kind.__name__: kind for kind in kinds}
        self._mapped: tuple[np.ndarray, memoryview] | None = None

    def __len__(self) -> int:
        return self._header.records

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[one] for one in range(*number.indices(len(self)))]
        if not -len(self) <= number < len(self):
            raise IndexError(f"there are {len(self)} records, and none is number {number}")
        offsets, content = self._opened()
        number = int(number) % len(self)
        text = bytes(content[int(offsets[number]) : int(offsets[number + 1])])
        return decoded(json.loads(text), self._kinds)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_mapped": None}

    def _opened(self) -> tuple[np.ndarray, memoryview]:
        if self._mapped is None:
            self._mapped = _mapped(self._path, self._header)
        return self._mapped


def stored(read: Callable[[], list[Any]], name: str, kinds: Sequence[type]) -> Sequence[Any]:
    """Returns the records that `read` returns, or those of a file of them.

    Args:
      read: reads annotations through `reading` and `looked_at` alone.
      name: of the dataset, its split and root folder.
      kinds: dataclasses that records are made of.
    """
    path = cache_file(name, "records")
    if (found := _known(path, kinds)) is not None:
        return found
    with noting() as seen:
        begun = time.time_ns()
        records = read()
    if len(records) < STORED_FROM or begun - newest(seen) < TIME_STEP:
        return records
    try:
        return _written(path, records, seen, kinds)
    except UnstorableError:
        return records
    except OSError as error:
        logger.info("'%s' cannot be written (%s)", path, error.strerror or error)
        return records


def _known(path: Path, kinds: Sequence[type]) -> StoredRecords | None:
    try:
        header, content = _checked(path)
        if header.code != code_hash() or not is_unchanged(json.loads(content)):
            return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return None
    return StoredRecords(path, header, kinds)


def _checked(path: Path) -> tuple[_Header, bytes]:
    """The header of a file that is whole, and the JSON of what was looked at."""
    with path.open("rb") as file:
        start = file.read(HEADER_BYTES)
        if not start.startswith(MAGIC):
            raise ValueError(f"'{path}' holds no records")
        header = _Header(**json.loads(start[len(MAGIC) :]))
        checksum, seen = 0, b""
        while part := file.read(1 << 22):
            checksum = zlib.crc32(part, checksum)
            seen = (seen + part)[-header.seen_bytes :]
    if checksum != header.checksum:
        raise ValueError(f"'{path}' is damaged")
    return header, seen


def _written(path: Path, records: list[Any], seen: Seen, kinds: Sequence[type]) -> StoredRecords:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    offsets, checksum = np.zeros(len(records) + 1, "<i8"), 0
    known = {kind.__name__: kind for kind in kinds}
    try:
        with draft.open("w+b") as file:
            file.write(b"\0" * (HEADER_BYTES + offsets.nbytes))
            for number, record in enumerate(records, start=1):
                text = json.dumps(encoded(record, known), ensure_ascii=False).encode()
                offsets[number] = offsets[number - 1] + file.write(text)
            text = json.dumps(seen).encode()
            file.write(text)
            file.seek(HEADER_BYTES)
            file.write(offsets.tobytes())
            file.seek(HEADER_BYTES)
            while part := file.read(1 << 22):
                checksum = zlib.crc32(part, checksum)
            sizes = (len(records), int(offsets[-1]), len(text))
            header = _Header(*sizes, code_hash(), checksum)
            file.seek(0)
            file.write(MAGIC + json.dumps(asdict(header)).encode().ljust(HEADER_BYTES - len(MAGIC)))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return StoredRecords(path, header, kinds)


def _mapped(path: Path, header: _Header) -> tuple[np.ndarray, memoryview]:
    size = HEADER_BYTES + 8 * (header.records + 1) + header.records_bytes + header.seen_bytes
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size != size:
            raise OSError(f"'{path}' was made again since this run began; start the run again")
        whole = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    begin = HEADER_BYTES + 8 * (header.records + 1)
    return np.frombuffer(whole[HEADER_BYTES:begin], "<i8"), whole[begin:]


@functools.cache
def code_hash() -> str:
    """Returns a hash of the code that reads published datasets."""
    found = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


# ------------------------------------------------------------------------------- records as JSON


def encoded(value: Any, kinds: dict[str, type]) -> Any:
    """Returns what JSON can say of a record, so that `decoded` returns an equal one.

    Raises:
      UnstorableError: if a part of it is of another kind.
    """
    if type(value) in _PLAIN:
        return value
    if type(value) is list:
        return [encoded(part, kinds) for part in value]
    if type(value) is tuple:
        return {"tuple": [encoded(part, kinds) for part in value]}
    if type(value) is dict:
        return {"dict": [[encoded(k, kinds), encoded(v, kinds)] for k, v in value.items()]}
    if is_dataclass(value) and kinds.get(type(value).__name__) is type(value):
        parts = [encoded(getattr(value, part.name), kinds) for part in fields(value)]
        return {type(value).__name__: parts}
    raise UnstorableError(f"a record holds {type(value).__name__}")


def decoded(value: Any, kinds: dict[str, type]) -> Any:
    """Returns the record of what `encoded` returned."""
    if type(value) is list:
        return [decoded(part, kinds) for part in value]
    if type(value) is not dict:
        return value
    ((kind, parts),) = value.items()
    if kind == "dict":
        return {decoded(k, kinds): decoded(v, kinds) for k, v in parts}
    made = [decoded(part, kinds) for part in parts]
    return tuple(made) if kind == "tuple" else kinds[kind](*made)
