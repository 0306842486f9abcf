"""Files as torch writes them, made without torch: pickles, `model.pt`, `.metadata`, its parts."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

METADATA = "torch.distributed.checkpoint.metadata"
_STORAGES = {"float32": "FloatStorage", "float16": "HalfStorage", "bfloat16": "BFloat16Storage"}


@dataclass(eq=False)
class Object:
    """An object of a class, with arguments that it is made from, or fields that it is given."""

    module: str
    name: str
    arguments: tuple[Any, ...] = ()
    state: Any = None
    called: bool = False  # a function, not a class


@dataclass
class Reference:
    """What a pickle names by a persistent id."""

    value: tuple[Any, ...]


@dataclass
class Name:
    module: str
    name: str


def pickled(value: Any) -> bytes:
    """A pickle of protocol 2."""
    return b"\x80\x02" + _emitted(value) + b"."


def _emitted(value: Any) -> bytes:
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        raw = value.to_bytes(9, "little", signed=True)
        return b"\x8a" + bytes([len(raw)]) + raw
    if isinstance(value, str):
        raw = value.encode()
        return b"X" + struct.pack("<I", len(raw)) + raw
    if isinstance(value, tuple):
        return b"(" + b"".join(map(_emitted, value)) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(map(_emitted, value)) + b"e"
    if isinstance(value, dict):
        items = b"".join(_emitted(key) + _emitted(item) for key, item in value.items())
        return b"}(" + items + b"u"
    if isinstance(value, Name):
        return f"c{value.module}\n{value.name}\n".encode()
    if isinstance(value, Reference):
        return _emitted(value.value) + b"Q"
    made = _emitted(Name(value.module, value.name)) + _emitted(value.arguments)
    made += b"R" if value.called else b"\x81"
    return made if value.state is None else made + _emitted(value.state) + b"b"


def tensor(key: str, array: np.ndarray) -> Object:
    """How torch pickles a tensor whose storage has a key."""
    strides = tuple(stride // array.itemsize for stride in array.strides)
    storage = Name("torch", _STORAGES[array.dtype.name])
    reference = Reference(("storage", storage, key, "cpu", array.size))
    hooks = Object("collections", "OrderedDict", called=True)
    arguments = (reference, 0, array.shape, strides, False, hooks)
    return Object("torch._utils", "_rebuild_tensor_v2", arguments, called=True)


def archive(value: Any, arrays: Mapping[str, np.ndarray], **records: bytes) -> bytes:
    """A zip archive as `torch.save` writes it: 64-byte alignment of what is stored."""
    found = io.BytesIO()
    contents = {"data.pkl": pickled(value), "byteorder": b"little", "version": b"3\n"} | records
    contents |= {f"data/{key}": array.tobytes() for key, array in arrays.items()}
    with zipfile.ZipFile(found, "w") as file:
        for name, content in contents.items():
            info = zipfile.ZipInfo(f"archive/{name}")
            begin = found.tell() + 30 + len(info.filename)
            info.extra = struct.pack("<HH", 0x4246, -(begin + 4) % 64) + b"Z" * (-(begin + 4) % 64)
            file.writestr(info, content)
    return found.getvalue()


def model_pt(arrays: Mapping[str, np.ndarray]) -> bytes:
    """`model.pt` with these tensors."""
    keys = {name: str(number) for number, name in enumerate(arrays)}
    value = {name: tensor(keys[name], array) for name, array in arrays.items()}
    return archive(value, {keys[name]: array for name, array in arrays.items()})


@dataclass
class Sharded:
    """Writes a torch distributed checkpoint."""

    folder: Path
    tensors: dict[str, Any] = field(default_factory=dict)
    places: dict[Any, Any] = field(default_factory=dict)

    def write(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.folder.mkdir(parents=True)
        blobs = b""
        for name, array in arrays.items():
            blob = archive(tensor("0", array), {"0": array})
            self._describe(name, array, len(blobs), len(blob))
            blobs += blob
        (self.folder / "__0_0.distcp").write_bytes(blobs)
        fields = {"state_dict_metadata": self.tensors, "storage_data": self.places}
        whole = Object(METADATA, "Metadata", state=fields)
        (self.folder / ".metadata").write_bytes(pickled(whole))

    def _describe(self, name: str, array: np.ndarray, start: int, length: int) -> None:
        size = Object("torch", "Size", (array.shape,), called=True)
        origin = Object("torch", "Size", ((0,) * array.ndim,), called=True)
        properties = Object(
            METADATA, "TensorProperties", state=(Name("torch", array.dtype.name), None, False)
        )
        chunk = Object(METADATA, "ChunkStorageMetadata", state={"offsets": origin, "sizes": size})
        fields = {"properties": properties, "size": size, "chunks": [chunk]}
        self.tensors[f"model.{name}"] = Object(METADATA, "TensorStorageMetadata", state=fields)
        index = Object(METADATA, "MetadataIndex", state={"fqn": f"model.{name}", "offset": origin})
        place = {"relative_path": "__0_0.distcp", "offset": start, "length": length}
        info = Object("torch.distributed.checkpoint.filesystem", "_StorageInfo", state=place)
        self.places[index] = info
