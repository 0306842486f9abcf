"""The arrays of a checkpoint as they lie in its files, opened without Orbax, which saved them.

Of files that are damaged TensorStore says which and why, in one error; Orbax lets every array it
reads fail by itself, and prints each.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorstore as ts

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
    specs = {name: spec_of(folder, name, metadata) for name in names}
    opened = {name: ts.open(spec, open=True, read=True) for name, spec in specs.items()}
    return {name: array.result() for name, array in opened.items()}


def read_metadata(folder: Path) -> Mapping[str, Any]:
    """What Orbax wrote of the arrays in a folder."""
    return json.loads((folder / METADATA).read_text())


def spec_of(folder: Path, name: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Where an array lies and how it is stored, for `tensorstore.open`."""
    driver = "zarr3" if metadata.get("use_zarr3") else "zarr"
    if metadata.get("use_ocdbt", True):
        base = f"file://{folder.resolve()}/"
        return {"driver": driver, "kvstore": {"driver": "ocdbt", "base": base, "path": f"{name}/"}}
    path = f"{folder.resolve()}/{name}/"
    return {"driver": driver, "kvstore": {"driver": "file", "path": path}}
