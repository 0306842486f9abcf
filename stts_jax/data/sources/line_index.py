"""The index of a file of users' own data: which lines make which example, and where they are.

It is arrays of numbers, in a file of which all processes read what they need, or in memory where
the data are small. Lines stand in the order of their examples, and within one in that of the data.
A damaged file, or one of other data, is not taken: `read_index` says so, and it is built again.
"""

from __future__ import annotations

import json
import os
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from stts_jax.data.mapped_files import take_room

# What a file begins with. The number is another where the form is, or where other lines are
# grouped as being about the same media.
MAGIC = b"stts_jax index 1\n"
HEADER_BYTES = 4096
_CHECKED = 1 << 20  # bytes at a time


@dataclass(frozen=True)
class Signature:
    """What tells that a file was not written since, without reading it."""

    size: int
    modified: int  # ns
    changed: int  # ns

    @classmethod
    def of(cls, state: os.stat_result) -> Signature:
        """Returns that of a file."""
        return cls(state.st_size, state.st_mtime_ns, state.st_ctime_ns)


@dataclass(frozen=True)
class Header:
    """What an index says of itself.

    Attributes:
      signature: of the data when they were read.
      sha256: of their content.
      lines, examples: their number.
      most: lines of an example.
      folder: of the data as it was named, where a path in them is absolute; otherwise None.
      built: when the data were last compared with `sha256`, ns.
      skipped: fields of lines that are not read, the first of them.
      checksum: of the arrays.
    """

    signature: Signature
    sha256: str
    lines: int
    examples: int
    most: int
    folder: str | None
    built: int
    skipped: tuple[str, ...] = ()
    checksum: int = 0

    def to_bytes(self) -> bytes:
        """Returns the first `HEADER_BYTES` of the file."""
        text = json.dumps(asdict(self)).encode()
        content = MAGIC + f"{zlib.crc32(text):08x}\n".encode() + text
        if len(content) > HEADER_BYTES:  # of a very long path of the folder
            raise OSError("the index's header is too long")
        return content.ljust(HEADER_BYTES)

    @classmethod
    def from_bytes(cls, content: bytes) -> Header | None:
        """Returns the header of a file's first bytes; None if it isn't one, or damaged."""
        if not content.startswith(MAGIC):
            return None
        checksum, _, text = content[len(MAGIC) :].rstrip(b" ").partition(b"\n")
        try:
            if int(checksum, 16) != zlib.crc32(text):
                return None
            values = json.loads(text)
            signature = Signature(**values.pop("signature"))
            return cls(signature, skipped=tuple(map(str, values.pop("skipped"))), **values)
        except (ValueError, TypeError, KeyError, AttributeError):
            return None


class FileColumn:
    """An array in a file, of which elements are read when they are asked for.

    The file isn't mapped: for each number that is read of a map, the system maps 64 KB.
    """

    def __init__(self, file: BinaryIO, offset: int, kind: np.dtype, count: int) -> None:
        """Take the `count` numbers of a file from byte `offset` on."""
        self._file, self._offset, self._kind, self._count = file, offset, kind, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, key: int | slice) -> Any:
        start, stop, _ = (key if isinstance(key, slice) else slice(key, key + 1)).indices(len(self))
        size = self._kind.itemsize
        offset = self._offset + start * size
        content = os.pread(self._file.fileno(), max(stop - start, 0) * size, offset)
        numbers = np.frombuffer(content, self._kind)
        return numbers if isinstance(key, slice) else numbers[0]


Column = np.ndarray | FileColumn


@dataclass(frozen=True)
class Arrays:
    """The numbers of an index.

    Attributes:
      offsets: (lines,) int64, first byte of each line.
      numbers: (lines,) int64, of each line in its file, from 1.
      lengths: (lines,) uint32 bytes of each line.
      starts: (examples + 1,) int64, the first line of each example, and the number of lines.
    """

    offsets: Column
    numbers: Column
    lengths: Column
    starts: Column

    @staticmethod
    def forms(lines: int, examples: int) -> dict[str, tuple[np.dtype, int]]:
        """Returns kind and length of each, in the order of the file."""
        long = np.dtype("<i8")
        return {
            "offsets": (long, lines),
            "numbers": (long, lines),
            "starts": (long, examples + 1),
            "lengths": (np.dtype("<u4"), lines),
        }


class LineIndex:
    """An index, in memory or in its file.

    A process that is sent one gets the file's name and opens it itself.

    Attributes:
      header: see there.
      path: of its file, None in memory.
    """

    def __init__(self, header: Header, path: Path | None, arrays: Arrays | None = None) -> None:
        """Either `path` or `arrays` is given."""
        self.header, self.path = header, path
        self._arrays = arrays

    @property
    def arrays(self) -> Arrays:
        """The numbers.

        Raises:
          OSError: if the file is gone, or was made again for other data.
        """
        if self._arrays is None:
            assert self.path is not None
            self._arrays = _opened(self.path, self.header)
        return self._arrays

    def __getstate__(self) -> dict[str, Any]:
        state = dict(vars(self))
        return state if self.path is None else state | {"_arrays": None}


class Parts:
    """Examples of at most so many lines, where an index may have more of the same media.

    Only a mark every `_EVERY` examples is kept in memory.
    """

    _EVERY = 1024

    def __init__(self, index: LineIndex, most: int | None) -> None:
        """Split the examples of an index; with `None`, none of them."""
        self._index, header = index, index.header
        self._most = most if most is not None and most < header.most else None
        self._before = np.zeros(1, np.int64)
        if self._most is None:
            self._count = header.examples
        elif self._most == 1:
            self._count = header.lines
        else:
            self._before = self._counted()
            self._count = int(self._before[-1])

    def __len__(self) -> int:
        return self._count

    def lines(self, number: int) -> range:
        """Returns the positions in the index's arrays of the lines of an example."""
        if self._most == 1:
            return range(number, number + 1)
        starts = self._index.arrays.starts
        if self._most is None:
            return range(int(starts[number]), int(starts[number + 1]))
        block = int(np.searchsorted(self._before, number, "right")) - 1
        bounds = np.asarray(starts[block * self._EVERY : (block + 1) * self._EVERY + 1])
        before = np.cumsum(-(-np.diff(bounds) // self._most))
        rest = number - int(self._before[block])
        example = int(np.searchsorted(before, rest, "right"))
        part = rest - (int(before[example - 1]) if example else 0)
        first = int(bounds[example]) + part * self._most
        return range(first, min(first + self._most, int(bounds[example + 1])))

    def _counted(self) -> np.ndarray:
        """Parts before each block of examples."""
        starts, counts = self._index.arrays.starts, [0]
        step = self._EVERY * 256
        for begin in range(0, len(starts) - 1, step):
            lines = np.diff(starts[begin : begin + step + 1])
            parts = -(-lines // self._most)
            counts += np.add.reduceat(parts, np.arange(0, len(parts), self._EVERY)).tolist()
        return np.cumsum(counts)


# ----------------------------------------------------------------------------------------- files


def read_index(path: Path) -> LineIndex | None:
    """Returns the index of a file; None if there is none, or it is damaged.

    Whether it is of the data as they are now is not looked at.
    """
    try:
        with path.open("rb") as file:
            header = Header.from_bytes(file.read(HEADER_BYTES))
        if header is None:
            return None
        arrays = _opened(path, header)
        if checksum_of(path) != header.checksum:
            return None
    except (OSError, ValueError, TypeError, OverflowError):
        return None
    return LineIndex(header, path, arrays)


def write_header(path: Path, header: Header) -> None:
    """Writes what an index says of itself over what it said before."""
    with path.open("r+b") as file:
        file.write(header.to_bytes())


def allocate_index(path: Path, lines: int, examples: int) -> Arrays:
    """Makes the file of an index that has no header yet, and maps its arrays to be written."""
    forms = Arrays.forms(lines, examples)
    size = HEADER_BYTES + sum(kind.itemsize * count for kind, count in forms.values())
    with path.open("wb") as file:
        file.truncate(size)
    take_room(path)
    whole = np.memmap(path, np.uint8, "r+").view(np.ndarray)
    arrays, offset = {}, HEADER_BYTES
    for name, (kind, count) in forms.items():
        end = offset + kind.itemsize * count
        arrays[name], offset = whole[offset:end].view(kind), end
    return Arrays(**arrays)


def in_memory(lines: int, examples: int) -> Arrays:
    """The same without a file."""
    return Arrays(
        **{
            name: np.zeros(count, kind)
            for name, (kind, count) in Arrays.forms(lines, examples).items()
        }
    )


def checksum_of(path: Path) -> int:
    """Returns the checksum of the arrays of a file, which is read, so that no memory maps it."""
    found = 0
    with path.open("rb") as file:
        file.seek(HEADER_BYTES)
        while content := file.read(_CHECKED):
            found = zlib.crc32(content, found)
    return found


def _opened(path: Path, header: Header) -> Arrays:
    file = path.open("rb", buffering=0)
    forms = Arrays.forms(header.lines, header.examples)
    size = HEADER_BYTES + sum(kind.itemsize * count for kind, count in forms.values())
    if os.fstat(file.fileno()).st_size != size:
        raise OSError(f"'{path}' was made again since this run began; start the run again")
    columns, offset = {}, HEADER_BYTES
    for name, (kind, count) in forms.items():
        columns[name] = FileColumn(file, offset, kind, count)
        offset += kind.itemsize * count
    return Arrays(**columns)
