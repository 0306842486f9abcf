"""Reads `.metadata` of a torch distributed checkpoint without running anything that is in it.

The file is a pickle, and a pickle may name any function to be called. Here it may name the classes
of the table below and nothing else, and those are plain records of our own: neither torch nor the
reference's `olmo` package is imported.
"""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convert.stored import ConvertError


class Record:
    """Stands for any of the metadata's classes; its fields are attributes."""

    def __init__(self, *values: Any) -> None:
        self.values = values

    def __setstate__(self, state: Any) -> None:
        # Enums and tuples come as values, dataclasses as a dictionary of fields.
        if isinstance(state, dict):
            vars(self).update(state)
        else:
            self.values = tuple(state)


@dataclass(frozen=True)
class Chunk:
    """Part of a tensor: its place in the whole, and where its `torch.save` blob lies."""

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
_RECORDS = {
    (_METADATA, name)
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
} | {
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.distributed.checkpoint.filesystem", "_StoragePrefix"),
    ("olmo.train.remote_filesystem", "_StorageInfo"),
    ("olmo_core.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("pathlib", "PosixPath"),
}
_DTYPES = {"float32", "float16", "bfloat16", "float64", "int64", "int32", "uint8", "bool"}


def _layout(name: str) -> str:
    return name


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _RECORDS:
            return Record
        if (module, name) == ("torch", "Size"):
            return tuple
        if module == "torch.serialization" and name == "_get_layout":
            return _layout
        if module == "torch" and name in _DTYPES:
            return f"torch.{name}"
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        raise pickle.UnpicklingError(f"it wants to use '{module}.{name}'")


def read_metadata(path: Path) -> dict[str, ShardedTensor]:
    """The tensors that a `.metadata` file describes, by name; other items are left out.

    Raises:
      ConvertError: if it is damaged, or names anything that no metadata needs.
    """
    try:
        metadata = _Unpickler(io.BytesIO(path.read_bytes())).load()
        return _tensors(metadata)
    except ConvertError:
        raise
    except Exception as error:  # a damaged pickle raises anything
        raise ConvertError(
            f"'{path}' cannot be read ({error}); it is damaged or not to be trusted, and nothing "
            "in it was run"
        ) from error


def _tensors(metadata: Any) -> dict[str, ShardedTensor]:
    tensors = {
        name: ShardedTensor(tuple(item.size), item.properties.values[0])
        for name, item in metadata.state_dict_metadata.items()
        if hasattr(item, "size") and hasattr(item, "chunks")
    }
    sizes = {
        (name, tuple(chunk.offsets)): tuple(chunk.sizes)
        for name in tensors
        for chunk in metadata.state_dict_metadata[name].chunks
    }
    for index, place in metadata.storage_data.items():
        if index.fqn in tensors:
            offsets = tuple(index.offset)
            tensors[index.fqn].chunks.append(
                Chunk(
                    offsets,
                    sizes[index.fqn, offsets],
                    str(place.relative_path),
                    int(place.offset),
                    int(place.length),
                )
            )
    return tensors
