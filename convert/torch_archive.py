"""Reader of what `torch.save` writes: a zip archive of one pickle and a record for each storage.

Neither torch nor any code in the file is used. Records are where the archive's directory says, are
stored as they are, and are checked against their sizes and sums before a value is taken.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from convert.pickle_subset import MOST_BYTES, PersistentId, PickleError, empty, load
from convert.tensor_reader import DTYPES, ConvertError, Piece, TensorReader
from stts_jax.plain_files import reason
from stts_jax.quoting import shorten

_LOCAL_HEADER_MAGIC = b"PK\x03\x04"
_LOCAL_HEADER = struct.Struct("<4s5HIII2H")
_ENCRYPTED = 1
_MOST_RECORDS = 1_000_000
_CHECKED_BYTES = 16 << 20  # at a time


class ArchiveError(ValueError):
    """An archive that is damaged, or not one that torch writes."""


@dataclass(frozen=True)
class Record:
    """A file in the archive: where its bytes begin in the file that holds the archive."""

    start: int
    length: int
    crc: int


@dataclass(frozen=True)
class Storage:
    """A storage that tensors are views of."""

    key: str
    dtype: str
    count: int


@dataclass(frozen=True)
class View:
    """A tensor: part of a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


_STORAGES = {
    "FloatStorage": "torch.float32",
    "HalfStorage": "torch.float16",
    "BFloat16Storage": "torch.bfloat16",
    "DoubleStorage": "torch.float64",
    "LongStorage": "torch.int64",
    "IntStorage": "torch.int32",
    "ShortStorage": "torch.int16",
    "CharStorage": "torch.int8",
    "ByteStorage": "torch.uint8",
    "BoolStorage": "torch.bool",
}


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> View:
    if not isinstance(storage, PersistentId):
        raise PickleError("it has a tensor without a storage")
    numbers = (offset, *_numbers(shape), *_numbers(stride))
    if len(shape) != len(stride) or not all(type(n) is int and 0 <= n < 1 << 60 for n in numbers):
        raise PickleError("it has a tensor of an impossible shape")
    return View(_storage(storage.value), offset, tuple(shape), tuple(stride))


def _numbers(values: Any) -> tuple[Any, ...]:
    if not isinstance(values, tuple) or len(values) > 8:
        raise PickleError("it has a tensor of an impossible shape")
    return values


def _storage(value: Any) -> Storage:
    sound = (
        isinstance(value, tuple)
        and len(value) == 5
        and value[0] == "storage"
        and isinstance(value[1], str)
        and isinstance(value[2], str)
        and type(value[4]) is int
        and 0 <= value[4] < 1 << 60
    )
    if not sound:
        raise PickleError("it has a tensor whose storage is none")
    return Storage(value[2], value[1], value[4])


def _rebuild_parameter(data: Any, *_: Any) -> Any:
    return data


_NAMES: Mapping[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("collections", "OrderedDict"): empty,
    **{("torch", name): dtype for name, dtype in _STORAGES.items()},  # values, never called
}


def read_archive(
    path: Path,
    start: int = 0,
    length: int | None = None,
    advance: Callable[[int], Any] = lambda count: None,
) -> Any:
    """Reads what was saved, with a `TensorReader` for each tensor.

    Args:
      path: the file.
      start, length: of the archive in it; the whole file by default.
      advance: called with the number of bytes after each block that was checked.

    Raises:
      ConvertError: if it is damaged, wants to run code, or holds what can't be read by rows.
    """
    length = path.stat().st_size - start if length is None else length
    try:
        with path.open("rb") as file:
            window = io.BufferedReader(Window(file, start, length))
            records = _records(window, start, length)
            root = _root(records)
            _require_little_endian(file, records, root)
            value = load(_bytes(file, records[f"{root}/data.pkl"]), _NAMES)
            for record in sorted(records.values(), key=lambda record: record.start):
                _check(file, record, advance)
    except (ArchiveError, PickleError, zipfile.BadZipFile, OSError, ValueError, KeyError) as error:
        raise ConvertError(
            f"'{path}' cannot be read ({reason(error)}); it is damaged or not to be trusted, and "
            "nothing in it was run: copy or download it again"
        ) from error
    return _resolved(value, lambda name, view: _stored(name, view, path, records, root))


def _resolved(value: Any, tensor_of: Callable[[str, View], TensorReader]) -> Any:
    if isinstance(value, View):
        return tensor_of("", value)
    if isinstance(value, dict):
        return {
            name: tensor_of(name, item)
            if isinstance(item, View) and isinstance(name, str)
            else item
            for name, item in value.items()
        }
    return value


def _records(file: BinaryIO, base: int, length: int) -> dict[str, Record]:
    """Records by name, each where its own header says that it begins."""
    if length < 4:
        raise ArchiveError(f"it has {length} bytes" if length else "it is empty")
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
    if len(entries) > _MOST_RECORDS:
        raise ArchiveError(f"it has {len(entries)} records, more than {_MOST_RECORDS}")
    records: dict[str, Record] = {}
    for entry in entries:
        name = shorten(entry.filename)
        if entry.filename in records:
            raise ArchiveError(f"record {name} is there twice")
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise ArchiveError(f"record {name} is compressed, which torch never does")
        begin = _begin(file, entry)
        if begin + entry.file_size > length:
            raise ArchiveError(f"it is truncated: record {name} ends after its end")
        records[entry.filename] = Record(base + begin, entry.file_size, entry.CRC)
    if sum(record.length for record in records.values()) > length:
        raise ArchiveError("its records overlap")
    return records


def _begin(file: BinaryIO, entry: zipfile.ZipInfo) -> int:
    file.seek(entry.header_offset)
    raw = file.read(_LOCAL_HEADER.size)
    if len(raw) != _LOCAL_HEADER.size or raw[:4] != _LOCAL_HEADER_MAGIC:
        raise ArchiveError(f"record {shorten(entry.filename)} isn't where the directory says")
    _, _, flags, method, *_, name, extra = _LOCAL_HEADER.unpack(raw)
    if flags & _ENCRYPTED or method != zipfile.ZIP_STORED:
        raise ArchiveError(f"record {shorten(entry.filename)} is encrypted or compressed")
    return entry.header_offset + _LOCAL_HEADER.size + name + extra


def _root(records: Mapping[str, Record]) -> str:
    """The folder in the archive that holds everything."""
    roots = [name.removesuffix("/data.pkl") for name in records if name.endswith("/data.pkl")]
    if len(roots) != 1 or "/" in roots[0]:
        raise ArchiveError("it holds no data.pkl, or several: torch.save didn't write it")
    return roots[0]


def _require_little_endian(file: BinaryIO, records: Mapping[str, Record], root: str) -> None:
    record = records.get(f"{root}/byteorder")
    if record is not None and _bytes(file, record) != b"little":
        raise ArchiveError(
            "its byte order is not 'little'; load and save it again on a little-endian machine"
        )


def _bytes(file: BinaryIO, record: Record) -> bytes:
    if record.length > MOST_BYTES:
        raise ArchiveError(f"a description in it has {record.length} bytes")
    file.seek(record.start)
    return file.read(record.length)


def _check(file: BinaryIO, record: Record, advance: Callable[[int], Any]) -> None:
    found = 0
    file.seek(record.start)
    for size in _blocks(record.length):
        data = file.read(size)
        if len(data) != size:
            raise ArchiveError("it is truncated")
        found = zlib.crc32(data, found)
        advance(size)
    if found != record.crc:
        raise ArchiveError(
            "a record's bytes are not those that were saved: its CRC-32 differs; if it was saved "
            "with set_crc32_options(False), save it without"
        )


def _blocks(length: int) -> Iterator[int]:
    for start in range(0, length, _CHECKED_BYTES):
        yield min(_CHECKED_BYTES, length - start)


def _stored(
    name: str, view: View, path: Path, records: Mapping[str, Record], root: str
) -> TensorReader:
    """Returns the position of a tensor in its file."""
    what = f"tensor {shorten(name)} in '{path}'" if name else f"the tensor in '{path}'"
    if view.storage.dtype not in DTYPES:
        raise ConvertError(
            f"{what} is {shorten(view.storage.dtype)}; only float32, float16 and bfloat16 can be "
            "read, so save it in one of these"
        )
    dtype = DTYPES[view.storage.dtype]
    if not _is_contiguous(view):
        raise ConvertError(f"{what} is a strided view; save it with `.contiguous()`")
    record = records.get(f"{root}/data/{view.storage.key}")
    count = int(np.prod(view.shape, dtype=object))
    if (
        record is None
        or record.length != view.storage.count * dtype.itemsize
        or view.offset + count > view.storage.count
    ):
        raise ConvertError(
            f"{what} has a storage of another size than it says; it is damaged, so copy or "
            "download the file again"
        )
    piece = Piece(
        path,
        record.start + view.offset * dtype.itemsize,
        0,
        view.shape[0] if view.shape else 1,
    )
    return TensorReader(view.shape, dtype, (piece,))


def _is_contiguous(view: View) -> bool:
    wanted = 1
    for size, stride in zip(reversed(view.shape), reversed(view.stride), strict=True):
        if size > 1 and stride != wanted:
            return False
        wanted *= size
    return True


class Window(io.RawIOBase):
    """Part of a file, as a file."""

    def __init__(self, file: BinaryIO, start: int, length: int) -> None:
        self._file, self._start, self._length, self._at = file, start, length, 0

    def readable(self) -> bool:
        """Whether it can be read: always."""
        return True

    def seekable(self) -> bool:
        """Whether it has a position: always."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """See `io.IOBase.seek`."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._length}[whence]
        if base + offset < 0:
            raise OSError("there is nothing before its beginning")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        """Bytes before the position."""
        return self._at

    def readinto(self, buffer: Any) -> int:
        """See `io.RawIOBase.readinto`."""
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self._length - self._at))
        self._file.seek(self._start + self._at)
        data = self._file.read(count)
        view[: len(data)] = data
        self._at += len(data)
        return len(data)
