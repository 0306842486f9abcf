"""Reader of safetensors files: a JSON header with offsets, then the bytes."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

from convert.stored import DTYPES, ConvertError, Piece, StoredTensor, require_inside

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_MOST_HEADER_BYTES = 100_000_000  # as the safetensors library


def read_folder(folder: Path) -> dict[str, StoredTensor]:
    """All tensors of a folder, with an index or one file.

    Raises:
      ConvertError: if a file is missing, damaged, or outside of the folder, or two files hold a
        tensor of the same name.
    """
    index = folder / INDEX
    if not index.exists():
        return read_file(require_inside(folder / SINGLE, folder))
    weight_map = _weight_map(require_inside(index, folder))
    tensors: dict[str, StoredTensor] = {}
    for name in sorted(set(weight_map.values())):
        if Path(name).name != name:
            raise ConvertError(
                f"'{index}' names the file '{name}', which is not in the folder itself; "
                "this index is not from a trustworthy checkpoint"
            )
        found = read_file(require_inside(folder / name, folder))
        twice = sorted(tensors.keys() & found.keys())
        if twice:
            raise ConvertError(f"tensors {twice} are there twice, in '{name}' and another file")
        tensors.update(found)
    missing = sorted(weight_map.keys() - tensors.keys())
    if missing:
        raise ConvertError(
            f"'{index}' lists tensors that no file holds: {missing}; download the checkpoint again"
        )
    return tensors


def _weight_map(index: Path) -> dict[str, str]:
    try:
        found = json.loads(index.read_text())["weight_map"]
        if not all(isinstance(value, str) for value in found.values()):
            raise TypeError
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConvertError(
            f"'{index}' is not the index of a safetensors checkpoint; download it again"
        ) from error
    return found


def read_file(path: Path) -> dict[str, StoredTensor]:
    """All tensors of one file; only the header is read.

    Raises:
      ConvertError: if the file is damaged or holds values that are no floating point numbers.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size
        if length > min(size - 8, _MOST_HEADER_BYTES):
            raise ConvertError(f"'{path}' is truncated or no safetensors file; download it again")
        raw = file.read(length)
    try:
        header = json.loads(raw)
        entries = {name: value for name, value in header.items() if name != "__metadata__"}
        return {
            name: _entry(name, value, path, 8 + length, size) for name, value in entries.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, ConvertError):
            raise
        raise ConvertError(f"the header of '{path}' is damaged; download it again") from error


def _entry(name: str, value: dict[str, Any], path: Path, base: int, size: int) -> StoredTensor:
    shape, (begin, end) = tuple(map(int, value["shape"])), map(int, value["data_offsets"])
    if value["dtype"] not in DTYPES:
        raise ConvertError(
            f"tensor '{name}' of '{path}' is {value['dtype']}; only F32, F16 and BF16 can be read"
        )
    dtype = DTYPES[value["dtype"]]
    wanted = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if begin < 0 or min(shape, default=0) < 0 or end - begin != wanted:
        raise ConvertError(f"tensor '{name}' of '{path}' has impossible offsets; download it again")
    if base + end > size:
        raise ConvertError(
            f"'{path}' is truncated: tensor '{name}' ends at byte {base + end} of {size}; "
            "download it again"
        )
    rows = shape[0] if shape else 1
    return StoredTensor(shape, dtype, (Piece(path, base + begin, 0, rows),))
