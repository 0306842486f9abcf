"""Reads `.metadata` of a torch distributed checkpoint without running anything that is in it.

The file is a pickle, and a pickle may name any function to be called. Here it may name the classes
of the table below and nothing else, and those are plain records of our own: neither torch nor the
reference's `olmo` package is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convert.pickle_subset import MOST_BYTES, PickleError, Record, empty, few, load
from convert.tensor_reader import ConvertError
from stts_jax.plain_files import reason


@dataclass(frozen=True)
class Chunk:
    """Part of a tensor: its offsets in the whole, and the position of its `torch.save` blob."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: str
    start: int
    length: int


@dataclass
class ShardedTensor:
    """A tensor of the checkpoint: shape, dtype as torch names it, chunks."""

    shape: tuple[int, ...]
    dtype: str
    chunks: list[Chunk] = field(default_factory=list)


_METADATA = "torch.distributed.checkpoint.metadata"
_DTYPES = ("float32", "float16", "bfloat16", "float64", "int64", "int32", "uint8", "bool")


def _layout(name: Any) -> Any:
    return name


def _path(*parts: Any) -> str:
    return "/".join(part for part in parts if isinstance(part, str))


_NAMES: Mapping[tuple[str, str], Any] = {
    **{
        (_METADATA, name): Record
        for name in (
            "Metadata",
            "TensorStorageMetadata",
            "BytesStorageMetadata",
            "TensorProperties",
            "ChunkStorageMetadata",
            "MetadataIndex",
            "StorageMeta",
            "_MEM_FORMAT_ENCODING",
        )
    },
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"): Record,
    ("torch.distributed.checkpoint.filesystem", "_StoragePrefix"): Record,
    ("olmo.train.remote_filesystem", "_StorageInfo"): Record,
    ("olmo_core.distributed.checkpoint.filesystem", "_StorageInfo"): Record,
    ("pathlib", "PosixPath"): _path,
    ("torch", "Size"): few,
    ("torch.serialization", "_get_layout"): _layout,
    ("collections", "OrderedDict"): empty,
    **{("torch", name): f"torch.{name}" for name in _DTYPES},  # values, which are never called
}


def read_metadata(path: Path) -> dict[str, ShardedTensor]:
    """The tensors that a `.metadata` file describes, by name; other items are left out.

    Raises:
      ConvertError: if it is damaged, or names anything that no metadata needs.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        return _tensors(load(data, _NAMES))
    except (PickleError, AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise ConvertError(
            f"'{path}' cannot be read ({reason(error)}); it is damaged or not to be trusted, and "
            "nothing in it was run"
        ) from error


def _tensors(metadata: Any) -> dict[str, ShardedTensor]:
    described = {
        name: item
        for name, item in metadata.state_dict_metadata.items()
        if hasattr(item, "size") and hasattr(item, "chunks")
    }
    tensors = {
        name: ShardedTensor(_sizes(item.size), _text(item.properties.values[0]))
        for name, item in described.items()
    }
    sizes = {
        (_text(name), str(_sizes(chunk.offsets))): _sizes(chunk.sizes)
        for name, item in described.items()
        for chunk in item.chunks
    }
    for index, blob in metadata.storage_data.items():
        if _text(index.fqn) in tensors:
            offsets = _sizes(index.offset)
            tensors[index.fqn].chunks.append(
                Chunk(
                    offsets,
                    sizes[index.fqn, str(offsets)],
                    _text(blob.relative_path),
                    *_sizes((blob.offset, blob.length)),
                )
            )
    return tensors


def _sizes(values: Any) -> tuple[int, ...]:
    found = tuple(values)
    if len(found) > 8 or not all(type(value) is int and 0 <= value < 1 << 62 for value in found):
        raise TypeError("a shape, an offset or a length in it is none")
    return found


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 4096 or "\0" in value:
        raise TypeError("a name in it is none")
    return value
