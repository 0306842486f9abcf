"""Reads rows of tensors from files, for every format of checkpoint.

In all formats the bytes of a tensor are little-endian and row-major, in one file or in a few
pieces. So a reader keeps no more in memory than the rows that it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

import ml_dtypes
import numpy as np

from stts_jax.buckets.address import is_bucket
from stts_jax.plain_files import FileError, require_plain, require_within
from stts_jax.quoting import shorten

if TYPE_CHECKING:
    from stts_jax.buckets.bucket_path import BucketPath

# By the names in torch and safetensors.
DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "torch.float32": np.dtype(np.float32),
    "torch.float16": np.dtype(np.float16),
    "torch.bfloat16": np.dtype(ml_dtypes.bfloat16),
}


# Bytes of a tensor that are read at a time.
READ_BLOCK_BYTES = 64 << 20


class ConvertError(ValueError):
    """A checkpoint that cannot be read or written; the message says what to do."""


class Rows(Protocol):
    """A tensor whose rows (of its first axis) can be read."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole tensor."""

    @property
    def dtype(self) -> np.dtype:
        """Dtype of the stored values."""

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop)."""


@dataclass(frozen=True)
class Piece:
    """Some rows of a tensor, contiguous in a file.

    Attributes:
      path: the file.
      offset: of the first byte in it.
      start, stop: the rows.
    """

    path: Path
    offset: int
    start: int
    stop: int


@dataclass(frozen=True)
class TensorReader:
    """A tensor whose rows are in one or several files.

    Attributes:
      shape: of the whole.
      dtype: of the stored values.
      pieces: in ascending order, without gaps or overlaps; see `assemble`.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    pieces: tuple[Piece, ...]

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop); a scalar is one row.

        Raises:
          ConvertError: if the file ends before.
        """
        parts = [
            self._read_piece(piece, max(start, piece.start), min(stop, piece.stop))
            for piece in self.pieces
            if piece.start < stop and start < piece.stop
        ]
        rows = np.concatenate(parts) if len(parts) > 1 else parts[0]
        return rows.reshape((stop - start, *self.shape[1:]))

    def _read_piece(self, piece: Piece, start: int, stop: int) -> np.ndarray:
        row = int(np.prod(self.shape[1:], dtype=np.int64))
        count = (stop - start) * row
        offset = piece.offset + (start - piece.start) * row * self.dtype.itemsize
        values = _values_at(piece.path, offset, count, self.dtype.itemsize)
        if values.size != count:
            raise ConvertError(
                f"'{piece.path}' ends before row {stop} of a tensor of shape {self.shape}; it is "
                "truncated, so copy or download it again"
            )
        return values.view(self.dtype)


def _values_at(path: Path, offset: int, count: int, itemsize: int) -> np.ndarray:
    """Reads values, fewer at the end of the file, as an unsigned type: numpy reads no bfloat16."""
    kind = f"<u{itemsize}"
    if not is_bucket(path):
        return np.fromfile(path, dtype=kind, count=count, offset=offset)
    found = cast("BucketPath", path).read_range(offset, offset + count * itemsize)
    return np.frombuffer(found, kind, len(found) // itemsize)


def assemble(
    name: str, shape: tuple[int, ...], dtype: np.dtype, pieces: Iterable[Piece]
) -> TensorReader:
    """A tensor from its pieces in any order.

    Raises:
      ConvertError: if they leave a gap or overlap.
    """
    ordered = tuple(sorted(pieces, key=lambda piece: piece.start))
    wanted = shape[0] if shape else 1
    reached = 0
    for piece in ordered:
        if piece.start != reached:
            what = "is missing" if piece.start > reached else "is there twice"
            raise ConvertError(
                f"row {min(piece.start, reached)} of tensor {shorten(name)} {what} in "
                f"'{piece.path.parent}'; copy or download the checkpoint again"
            )
        reached = piece.stop
    if reached != wanted:
        raise ConvertError(
            f"tensor {shorten(name)} has {wanted} rows, but '{ordered[0].path.parent}' holds "
            f"{reached} of them; copy or download the checkpoint again"
        )
    return TensorReader(shape, dtype, ordered)


@dataclass(frozen=True)
class RowRange:
    """Rows [start, stop) of another tensor, as a tensor of its own."""

    whole: Rows
    start: int
    stop: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the range."""
        return (self.stop - self.start, *self.whole.shape[1:])

    @property
    def dtype(self) -> np.dtype:
        """Dtype of the stored values."""
        return self.whole.dtype

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop) of the range."""
        return self.whole.read(self.start + start, self.start + stop)


@dataclass(frozen=True)
class JoinedRows:
    """Tensors concatenated by rows, as other systems fuse them."""

    parts: tuple[Rows, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole."""
        return (sum(part.shape[0] for part in self.parts), *self.parts[0].shape[1:])

    @property
    def dtype(self) -> np.dtype:
        """Dtype that holds the stored values of all parts."""
        return np.result_type(*(part.dtype for part in self.parts))

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop)."""
        found, first = [], 0
        for part in self.parts:
            low, high = max(start - first, 0), min(stop - first, part.shape[0])
            if low < high:
                found.append(part.read(low, high))
            first += part.shape[0]
        return np.concatenate(found)


def join_parts(parts: Mapping[str, Mapping[int, Rows]]) -> dict[str, Rows]:
    """Tensors from their parts, which are given by the first row that each has in the whole."""
    return {
        name: JoinedRows(tuple(found[start] for start in sorted(found)))
        if len(found) > 1
        else next(iter(found.values()))
        for name, found in parts.items()
    }


def row_blocks(rows: Rows, unit: int = 1) -> Iterator[tuple[int, int]]:
    """First and last + 1 row of the blocks to read a tensor in: `unit` rows or a multiple."""
    count = rows.shape[0] if rows.shape else 1
    width = int(np.prod(rows.shape[1:], dtype=np.int64)) * rows.dtype.itemsize
    step = unit * max(1, READ_BLOCK_BYTES // max(1, width * unit))
    for start in range(0, count, step):
        yield start, min(start + step, count)


@dataclass(frozen=True)
class NonFinite:
    """Numbers of NaN and of infinite values in a tensor."""

    nan: int = 0
    infinite: int = 0

    def __add__(self, other: NonFinite) -> NonFinite:
        return NonFinite(self.nan + other.nan, self.infinite + other.infinite)

    def __bool__(self) -> bool:
        return bool(self.nan or self.infinite)

    def __str__(self) -> str:
        parts = []
        if self.nan:
            parts.append(f"{self.nan} values that are not a number (NaN)")
        if self.infinite:
            parts.append(f"{self.infinite} infinite values (Inf), as of an overflow in float16")
        return " and ".join(parts)


# Bits of positive infinity by bytes of a value and name of the type. Those of NaN are above.
_INFINITY = {"float32": 0x7F800000, "float16": 0x7C00, "bfloat16": 0x7F80}


def count_non_finite(values: np.ndarray) -> NonFinite:
    """Counts values that are not finite; makes a copy only if there are any."""
    if not values.size:
        return NonFinite()
    # Integers are compared many at a time, bfloat16 one by one: as signed integers the bits of
    # positive values are in order, as unsigned ones those of all negative values above them.
    bits, infinity = 8 * values.dtype.itemsize, _INFINITY[values.dtype.name]
    signed, unsigned = values.view(f"i{values.dtype.itemsize}"), values.view(f"u{bits // 8}")
    if int(signed.max()) < infinity and int(unsigned.max()) < infinity + (1 << (bits - 1)):
        return NonFinite()
    return NonFinite(int(np.isnan(values).sum()), int(np.isinf(values).sum()))


def require_inside(path: Path, folder: Path) -> Path:
    """Returns `path` with its links resolved, if that is a file in `folder`.

    Files of a Hugging Face cache are links from `snapshots/REVISION` to `blobs`; these are fine.

    Raises:
      ConvertError: if it is missing, isn't a plain file, or a link leads out of the folder.
    """
    if not path.exists():
        raise ConvertError(
            f"'{path}' is missing; copy or download the checkpoint again, all of its files"
        )
    try:
        real = require_within(path, folder)
    except FileError as error:
        raise ConvertError(
            f"{error}; a checkpoint must hold its files itself, so copy that file there if you "
            "trust it"
        ) from error
    with with_remedy("copy or download the checkpoint again"):
        require_plain(path)
    return real


@contextmanager
def with_remedy(remedy: str) -> Iterator[None]:
    """Raises a `FileError` of the block as a `ConvertError` that also says what to do."""
    try:
        yield
    except FileError as error:
        raise ConvertError(f"{error}; {remedy}") from error
