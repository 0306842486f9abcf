"""Readers of the reference's own checkpoints, which torch wrote; they need no torch.

Source: docs/reference.md#layout-of-checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from convert.pickled_metadata import ShardedTensor, read_metadata
from convert.tensor_reader import (
    DTYPES,
    ConvertError,
    Piece,
    TensorReader,
    assemble,
    require_inside,
)
from convert.torch_archive import read_archive
from stts_jax.quoting import shorten

UNSHARDED = "model.pt"
SHARDED = "model_and_optim"
METADATA = ".metadata"
# In distributed checkpoints, which hold the optimiser's state under other names.
PREFIX = "model."
# What wrappers of torch put into names.
WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")


def read_unsharded(folder: Path) -> dict[str, TensorReader]:
    """Tensors of `model.pt`, a flat dictionary.

    Raises:
      ConvertError: if it is damaged, wants to run code, or holds something else.
    """
    path = require_inside(folder / UNSHARDED, folder)
    with _checking(path.name, path.stat().st_size) as bar:
        found = read_archive(path, advance=bar.update)
    if not isinstance(found, dict):
        raise ConvertError(f"'{path}' holds a {type(found).__name__} instead of named tensors")
    for name, tensor in found.items():
        if not isinstance(name, str) or not isinstance(tensor, TensorReader):
            raise ConvertError(
                f"{shorten(name)} in '{path}' is no tensor but a {type(tensor).__name__}; save the "
                "model's state_dict alone"
            )
    return unwrapped(found)


def read_sharded(folder: Path) -> dict[str, TensorReader]:
    """Tensors of the model in a torch distributed checkpoint; the optimiser's are left out.

    Raises:
      ConvertError: if something is missing, damaged, outside of the folder, or wants to run code.
    """
    sharded = folder / SHARDED
    described = read_metadata(require_inside(sharded / METADATA, folder))
    wanted = {name: tensor for name, tensor in described.items() if name.startswith(PREFIX)}
    if not wanted:
        raise ConvertError(
            f"'{sharded / METADATA}' has no tensor whose name begins with '{PREFIX}'; it is no "
            "checkpoint of a model"
        )
    total = _require_parts(wanted, sharded)
    with _checking(SHARDED, total) as bar:
        return unwrapped(
            {
                name.removeprefix(PREFIX): _sharded(name, tensor, sharded, bar)
                for name, tensor in wanted.items()
            }
        )


def _require_parts(tensors: Mapping[str, ShardedTensor], folder: Path) -> int:
    """Returns the bytes of all parts, which must be in the folder's files and must not overlap."""
    ends: dict[str, int] = {}
    total = 0
    for tensor in tensors.values():
        for chunk in tensor.chunks:
            ends[chunk.file] = max(ends.get(chunk.file, 0), chunk.start + chunk.length)
            total += chunk.length
    for file, end in ends.items():
        path = require_inside(folder / file, folder)
        if end > path.stat().st_size:
            raise ConvertError(f"'{path}' is truncated; copy or download it again")
    if total > sum(ends.values()):
        raise ConvertError(
            f"'{folder / METADATA}' describes parts that overlap; copy the checkpoint again"
        )
    return total


@contextmanager
def _checking(what: str, size: int) -> Iterator[Any]:
    """A bar over the bytes whose sums are checked."""
    with tqdm(
        total=size, desc=f"checking {what}", unit="B", unit_scale=True, disable=None, delay=2
    ) as bar:
        yield bar


def unwrapped(tensors: dict[str, TensorReader]) -> dict[str, TensorReader]:
    """The same tensors under the names they have without wrappers.

    Raises:
      ConvertError: if two get the same name.
    """
    plain: dict[str, TensorReader] = {}
    for name, tensor in tensors.items():
        for wrapper in WRAPPERS:
            name = name.replace(wrapper, "")
        if name in plain:
            raise ConvertError(f"tensor {shorten(name)} is there twice, with and without a wrapper")
        plain[name] = tensor
    return plain


def _sharded(name: str, tensor: ShardedTensor, folder: Path, bar: Any) -> TensorReader:
    if tensor.dtype not in DTYPES:
        raise ConvertError(
            f"tensor {shorten(name)} is {shorten(tensor.dtype)}; only float32, float16 and "
            "bfloat16 can be read"
        )
    pieces = []
    for chunk in tensor.chunks:
        if chunk.sizes[1:] != tensor.shape[1:]:
            raise ConvertError(
                f"tensor {shorten(name)} is cut along more than its first axis (a part is "
                f"{chunk.sizes} of {tensor.shape}); only checkpoints cut by rows can be read"
            )
        path = (folder / chunk.file).resolve()  # which was looked at before
        stored = read_archive(path, chunk.start, chunk.length, bar.update)
        if not isinstance(stored, TensorReader):
            raise ConvertError(f"'{path}' holds no tensor where {METADATA} says; copy it again")
        if stored.shape != chunk.sizes or stored.dtype != DTYPES[tensor.dtype]:
            raise ConvertError(
                f"'{path}' holds {stored.dtype}{stored.shape} for tensor {shorten(name)}, but "
                f"{METADATA} says {tensor.dtype}{chunk.sizes}; copy the checkpoint again"
            )
        start = chunk.offsets[0] if chunk.offsets else 0
        rows = chunk.sizes[0] if chunk.sizes else 1
        pieces.append(Piece(path, stored.pieces[0].offset, start, start + rows))
    if not pieces:
        raise ConvertError(f"no file holds tensor {shorten(name)}; copy the checkpoint again")
    return assemble(name, tensor.shape, DTYPES[tensor.dtype], pieces)
