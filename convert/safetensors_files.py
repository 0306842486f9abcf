"""Reader of safetensors files.

The safetensors library opens each file first, so what it refuses is refused: a header that isn't
one, offsets that overlap, leave a gap or don't end where the file does. What it accepts lies there
tensor after tensor, and is read by rows: the library would map whole files into memory.
"""

from __future__ import annotations

import contextlib
import re
import struct
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from safetensors import safe_open

from convert.tensor_reader import (
    DTYPES,
    ConvertError,
    Piece,
    TensorReader,
    require_inside,
    with_remedy,
)
from stts_jax.buckets.address import is_bucket
from stts_jax.plain_files import parse_json, read_json_object, reason
from stts_jax.quoting import shorten

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_SHARD = re.compile(r".*-\d{5}-of-\d{5}\.safetensors")
# Names, shapes and offsets of 100,000 tensors; the library itself takes six times that.
_MOST_HEADER_BYTES = 16 << 20
_AGAIN = "copy or download it again"


def shards_in(folder: Path) -> list[str]:
    """Names of the files that are a part of a checkpoint by their name."""
    return sorted(path.name for path in folder.iterdir() if _SHARD.fullmatch(path.name))


def read_folder(folder: Path) -> tuple[dict[str, TensorReader], tuple[str, ...]]:
    """All tensors of a folder, and what a user should know about the choice of files.

    A whole `model.safetensors` comes before an index, as transformers has it.

    Raises:
      ConvertError: if a file is missing, damaged, or outside of the folder, or two files hold a
        tensor of the same name.
    """
    index = folder / INDEX
    if (folder / SINGLE).exists():
        tensors = read_file(require_inside(folder / SINGLE, folder))
        if not index.exists():
            return tensors, ()
        note = (
            f"took '{SINGLE}' and not the files that '{INDEX}' names, as transformers does; "
            "delete the one that is stale"
        )
        return tensors, (note,)
    if not index.exists():
        raise _no_index(folder)
    return _indexed(folder, index), ()


def _no_index(folder: Path) -> ConvertError:
    shards = shards_in(folder)
    if not shards:
        return ConvertError(f"'{folder / SINGLE}' is missing; download the checkpoint again")
    return ConvertError(
        f"'{folder}' holds {shorten(shards[0])} and {len(shards) - 1} more parts of a checkpoint, "
        f"but no '{INDEX}', which lists them; copy it from where they are from"
    )


def _indexed(folder: Path, index: Path) -> dict[str, TensorReader]:
    weight_map = _weight_map(require_inside(index, folder), index)
    tensors: dict[str, TensorReader] = {}
    for name in sorted(set(weight_map.values())):
        if Path(name).name != name:
            raise ConvertError(
                f"'{index}' names the file {shorten(name)}, which is not in the folder itself; "
                "this index is not from a trustworthy checkpoint"
            )
        found = read_file(require_inside(folder / name, folder))
        twice = sorted(tensors.keys() & found.keys())
        if twice:
            raise ConvertError(
                f"tensors {shorten(twice)} are there twice, in {shorten(name)} and another file; "
                "download the checkpoint again"
            )
        tensors.update(found)
    missing = sorted(weight_map.keys() - tensors.keys())
    if missing:
        raise ConvertError(
            f"'{index}' lists {len(missing)} tensors that no file holds: {shorten(missing)}; "
            "download the checkpoint again"
        )
    return tensors


def _weight_map(index: Path, named: Path) -> dict[str, str]:
    with with_remedy("download it again"):
        found = read_json_object(index).get("weight_map")
    if not isinstance(found, dict) or not all(
        isinstance(value, str) and value.isprintable() and 0 < len(value) < 256
        for value in found.values()
    ):
        raise ConvertError(
            f"'{named}' is not the index of a safetensors checkpoint; download it again"
        )
    return found


def read_file(path: Path) -> dict[str, TensorReader]:
    """All tensors of one file; only the header is read.

    Raises:
      ConvertError: if the file is damaged or holds values that are no floating point numbers.
    """
    _require_small_header(path)
    try:
        with _header_here(path) as here, safe_open(here, framework="numpy") as file:
            described = {name: file.get_slice(name) for name in file.offset_keys()}
            shapes = {name: tuple(one.get_shape()) for name, one in described.items()}
            dtypes = {name: str(one.get_dtype()) for name, one in described.items()}
    except Exception as error:  # the library raises its own error, which is a bare Exception
        raise ConvertError(
            f"'{path}' is truncated or damaged or no safetensors file ({reason(error)}); {_AGAIN}"
        ) from error
    return _tensors_at(path, shapes, dtypes)


@contextlib.contextmanager
def _header_here(path: Path) -> Iterator[Path]:
    """Yields the path of a file whose header can be read; of one in a bucket a copy without values.

    The copy has the size of the whole, which the library checks, but takes no room for the rest.
    """
    if not is_bucket(path):
        yield path
        return
    with tempfile.NamedTemporaryFile(suffix=path.suffix) as copy, path.open("rb") as file:
        prefix = file.read(8)
        copy.write(prefix + file.read(struct.unpack("<Q", prefix)[0]))
        copy.truncate(path.stat().st_size)
        copy.flush()
        yield Path(copy.name)


def _tensors_at(
    path: Path, shapes: Mapping[str, tuple[int, ...]], dtypes: Mapping[str, str]
) -> dict[str, TensorReader]:
    """Tensors in the order in which they fill the file up to its end."""
    for name, dtype in dtypes.items():
        if dtype not in DTYPES:
            raise ConvertError(
                f"tensor {shorten(name)} of '{path}' is {dtype}; only F32, F16 and BF16 can be "
                "read, so save it in one of these"
            )
    sizes = {
        name: int(np.prod(shape, dtype=object)) * DTYPES[dtypes[name]].itemsize
        for name, shape in shapes.items()
    }
    offset = path.stat().st_size - sum(sizes.values())
    tensors = {}
    for name, shape in shapes.items():
        piece = Piece(path, offset, 0, shape[0] if shape else 1)
        tensors[name] = TensorReader(shape, DTYPES[dtypes[name]], (piece,))
        offset += sizes[name]
    return tensors


def _require_small_header(path: Path) -> None:
    """Refuses a header of a size that no model has, and one that names a tensor twice."""
    with path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if length > path.stat().st_size:
            raise ConvertError(f"'{path}' is truncated or no safetensors file; {_AGAIN}")
        if length > _MOST_HEADER_BYTES:
            raise ConvertError(
                f"'{path}' has a header of {length} bytes, more than {_MOST_HEADER_BYTES}; {_AGAIN}"
            )
        raw = file.read(length)
    with with_remedy(_AGAIN):
        parse_json(raw.decode("utf-8", errors="replace"), path)
