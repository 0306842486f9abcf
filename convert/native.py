"""Readers of the reference's own checkpoints, which torch wrote (MODEL 5.1).

torch only says where in the files the tensors lie: they are loaded onto its `meta` device, which
holds no values, with `weights_only=True`, which runs no code. The values are read without it.
"""

from __future__ import annotations

import io
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

from convert.pickled_metadata import ShardedTensor, read_metadata
from convert.stored import (
    DTYPES,
    ConvertError,
    Piece,
    StoredTensor,
    assemble,
    require_inside,
)

UNSHARDED = "model.pt"
SHARDED = "model_and_optim"
METADATA = ".metadata"
# In distributed checkpoints, which hold the optimiser's state under other names.
PREFIX = "model."
# What wrappers of torch put into names.
WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")


def read_unsharded(folder: Path) -> dict[str, StoredTensor]:
    """Tensors of `model.pt`, a flat dictionary.

    Raises:
      ConvertError: if it is damaged, wants to run code, or holds something else.
    """
    path = require_inside(folder / UNSHARDED, folder)
    with path.open("rb") as file:
        found = _load(file, path)
    if not isinstance(found, dict):
        raise ConvertError(f"'{path}' holds a {type(found).__name__} instead of named tensors")
    return unwrapped({name: _stored(name, tensor, path, 0) for name, tensor in found.items()})


def read_sharded(folder: Path) -> dict[str, StoredTensor]:
    """Tensors of the model in a torch distributed checkpoint; the optimiser's are left out.

    Raises:
      ConvertError: if something is missing, damaged, outside of the folder, or wants to run code.
    """
    place = folder / SHARDED
    described = read_metadata(require_inside(place / METADATA, folder))
    return unwrapped(
        {
            name.removeprefix(PREFIX): _sharded(name, tensor, place)
            for name, tensor in described.items()
            if name.startswith(PREFIX)
        }
    )


def unwrapped(tensors: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    """The same tensors under the names they have without wrappers.

    Raises:
      ConvertError: if two get the same name.
    """
    plain: dict[str, StoredTensor] = {}
    for name, tensor in tensors.items():
        for wrapper in WRAPPERS:
            name = name.replace(wrapper, "")
        if name in plain:
            raise ConvertError(f"tensor '{name}' is there twice, with and without a wrapper")
        plain[name] = tensor
    return plain


def _sharded(name: str, tensor: ShardedTensor, folder: Path) -> StoredTensor:
    if tensor.dtype not in DTYPES:
        raise ConvertError(
            f"tensor '{name}' is {tensor.dtype}; only float32, float16 and bfloat16 can be read"
        )
    pieces = []
    for chunk in tensor.chunks:
        if chunk.sizes[1:] != tensor.shape[1:]:
            raise ConvertError(
                f"tensor '{name}' is cut along more than its first axis (a part is {chunk.sizes} "
                f"of {tensor.shape}); only checkpoints cut by rows can be read"
            )
        path = require_inside(folder / chunk.file, folder)
        if chunk.start + chunk.length > path.stat().st_size:
            raise ConvertError(f"'{path}' is truncated; copy or download it again")
        with path.open("rb") as file:
            blob = _load(io.BufferedReader(_Window(file, chunk.start, chunk.length)), path)
        stored = _stored(name, blob, path, chunk.start)
        if stored.shape != chunk.sizes or stored.dtype != DTYPES[tensor.dtype]:
            raise ConvertError(
                f"'{path}' holds {stored.dtype}{stored.shape} for tensor '{name}', but "
                f"{METADATA} says {tensor.dtype}{chunk.sizes}; copy the checkpoint again"
            )
        start = chunk.offsets[0] if chunk.offsets else 0
        rows = chunk.sizes[0] if chunk.sizes else 1
        pieces.append(Piece(path, stored.pieces[0].offset, start, start + rows))
    if not pieces:
        raise ConvertError(f"no file holds tensor '{name}'; copy the checkpoint again")
    return assemble(name, tensor.shape, DTYPES[tensor.dtype], pieces)


def _stored(name: str, tensor: Any, path: Path, base: int) -> StoredTensor:
    """Where a tensor loaded onto the meta device lies in the file it is from."""
    torch = _torch()
    if not isinstance(tensor, torch.Tensor):
        raise ConvertError(f"'{name}' in '{path}' is no tensor but a {type(tensor).__name__}")
    if str(tensor.dtype) not in DTYPES:
        raise ConvertError(
            f"tensor '{name}' is {tensor.dtype}; only float32, float16 and bfloat16 can be read"
        )
    if not tensor.is_contiguous():
        raise ConvertError(
            f"tensor '{name}' in '{path}' is a strided view; save it with `.contiguous()`"
        )
    offset = getattr(tensor.untyped_storage(), "_checkpoint_offset", None)
    if offset is None:
        raise ConvertError(
            f"torch {torch.__version__} doesn't say where in '{path}' tensor '{name}' lies; "
            "install the version of the [convert] extra"
        )
    offset += base + tensor.storage_offset() * tensor.element_size()
    shape = tuple(tensor.shape)
    piece = Piece(path, offset, 0, shape[0] if shape else 1)
    return StoredTensor(shape, DTYPES[str(tensor.dtype)], (piece,))


def _load(file: BinaryIO, path: Path) -> Any:
    try:
        return _torch().load(file, map_location="meta", weights_only=True)
    except Exception as error:  # damaged archives raise anything
        raise ConvertError(
            f"'{path}' cannot be read by torch ({str(error).splitlines()[0]}); it is damaged or "
            "not to be trusted, and nothing in it was run"
        ) from error


def _torch() -> ModuleType:
    try:
        import torch
    except ImportError as error:
        raise ConvertError(
            "reading the reference's own checkpoints needs torch; install it with "
            "`pip install 'stts-jax[convert]'`"
        ) from error
    return torch


class _Window(io.RawIOBase):
    """Part of a file, as a file: torch reads from it only what it needs."""

    def __init__(self, file: BinaryIO, start: int, length: int) -> None:
        self._file, self._start, self._length, self._at = file, start, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._length}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self._length - self._at))
        self._file.seek(self._start + self._at)
        data = self._file.read(count)
        view[: len(data)] = data
        self._at += len(data)
        return len(data)
