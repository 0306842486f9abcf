"""The arrays of a checkpoint as they lie in its files, opened without Orbax, which saved them.

Of files that are damaged TensorStore says which and why, in one error; Orbax lets every array it
reads fail by itself, and prints each.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorstore as ts

from stts_jax.plain_files import read_json_object
from stts_jax.quoting import shorten

# What Orbax calls the list of a folder's arrays.
METADATA = "_METADATA"


def open_arrays(folder: Path) -> dict[str, Any]:
    """The arrays of a checkpoint's part by dotted name, to read from; none is read yet.

    Args:
      folder: of the part, `STEP/model` for example.

    Raises:
      OSError, ValueError, KeyError, TypeError: whatever files lead to that aren't what they were.
    """
    metadata = read_metadata(folder)
    names = [entry["key_metadata"][0]["key"] for entry in metadata["tree_metadata"].values()]
    for name in names:
        if not isinstance(name, str) or "/" in name or name in ("", ".", ".."):
            raise ValueError(f"{shorten(name)} in '{METADATA}' is no name of an array")
    specs = {name: spec_of(folder, name, metadata) for name in names}
    opened = {name: ts.open(spec, open=True, read=True) for name, spec in specs.items()}
    arrays = {name: array.result() for name, array in opened.items()}
    for name, array in arrays.items():
        # A block is read as a whole: one that is larger than its array may fill memory.
        block = array.chunk_layout.read_chunk.shape
        if any(side > max(1, size) for side, size in zip(block, array.shape, strict=True)):
            raise ValueError(f"the blocks of array '{name}' are {block}, larger than the array")
    return arrays


def read_metadata(folder: Path) -> Mapping[str, Any]:
    """What Orbax wrote of the arrays in a folder."""
    return read_json_object(folder / METADATA)


def spec_of(folder: Path, name: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Where an array lies and how it is stored, for `tensorstore.open`."""
    driver = "zarr3" if metadata.get("use_zarr3") else "zarr"
    if metadata.get("use_ocdbt", True):
        base = f"file://{folder.resolve()}/"
        return {"driver": driver, "kvstore": {"driver": "ocdbt", "base": base, "path": f"{name}/"}}
    path = f"{folder.resolve()}/{name}/"
    return {"driver": driver, "kvstore": {"driver": "file", "path": path}}
