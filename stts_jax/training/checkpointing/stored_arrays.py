"""Opens the arrays of a checkpoint, which Orbax wrote, with TensorStore.

Of damaged files TensorStore raises one error that names file and cause, where Orbax lets every
array fail by itself, and prints each.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorstore as ts
from orbax.checkpoint import v1 as ocp

from stts_jax.buckets.address import is_bucket
from stts_jax.plain_files import read_json_object
from stts_jax.quoting import shorten

# Bytes of a block at most: as it is decoded whole, also where a part of it is wanted.
_BLOCK_BYTES = 1 << 23
# Bytes of the index of a checkpoint in a bucket that are kept while its arrays are open.
_INDEX_BYTES = 64 << 20
# The file in which Orbax lists the arrays of a folder.
METADATA = "_METADATA"


def in_blocks() -> ocp.Context:
    """Returns the context to save arrays in, so that a reader needs little besides the arrays."""
    context = ocp.Context()
    context.array.saving.storage_options.chunk_byte_size = _BLOCK_BYTES
    # Devices that hold the same array write a part each, and compile a slice for it.
    context.array.saving.min_slice_bytes_for_replica_parallel = _BLOCK_BYTES
    return context


def open_arrays(folder: Path) -> dict[str, Any]:
    """Opens the arrays of a checkpoint's part; returns TensorStore's handles by dotted name.

    Args:
      folder: of the part, `STEP/model` for example.

    Raises:
      OSError, ValueError, KeyError, TypeError: if files are missing or damaged.
    """
    metadata = read_metadata(folder)
    names = [entry["key_metadata"][0]["key"] for entry in metadata["tree_metadata"].values()]
    for name in names:
        if not isinstance(name, str) or "/" in name or name in ("", ".", ".."):
            raise ValueError(f"{shorten(name)} in '{METADATA}' is no name of an array")
    specs = {name: spec_of(folder, name, metadata) for name in names}
    # A block whose file is gone is damage, as to Orbax, and no block of zeros.
    common: dict[str, Any] = {"fill_missing_data_reads": False}
    context = None
    if is_bucket(folder):
        # All arrays share what says where their blocks are; else each reads it again.
        context = ts.Context({"cache_pool": {"total_bytes_limit": _INDEX_BYTES}})
        common |= {"recheck_cached_data": False, "recheck_cached_metadata": "open"}
    opened = {
        name: ts.open({**spec, **common}, open=True, read=True, context=context)
        for name, spec in specs.items()
    }
    arrays = {name: array.result() for name, array in opened.items()}
    for name, array in arrays.items():
        # A block is read as a whole: one that is larger than its array may fill memory.
        block: Any = array.chunk_layout.read_chunk.shape or ()
        if any(side > max(1, size) for side, size in zip(block, array.shape, strict=True)):
            raise ValueError(f"the blocks of array '{name}' are {block}, larger than the array")
    return arrays


def read_metadata(folder: Path) -> Mapping[str, Any]:
    """Returns Orbax's description of the arrays in a folder."""
    return read_json_object(folder / METADATA)


def spec_of(folder: Path, name: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the spec of an array for `tensorstore.open`: path and format."""
    driver = "zarr3" if metadata.get("use_zarr3") else "zarr"
    base = f"{folder}/" if is_bucket(folder) else f"file://{folder.resolve()}/"
    if metadata.get("use_ocdbt", True):
        return {"driver": driver, "kvstore": {"driver": "ocdbt", "base": base, "path": f"{name}/"}}
    return {"driver": driver, "kvstore": f"{base}{name}/"}
