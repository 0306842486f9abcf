"""Writes Hugging Face folders: safetensors files in parts, their index, `config.json`."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from convert.hf_config import hf_config_of
from convert.safetensors_files import INDEX, SINGLE
from convert.stored_dtype import stored_dtype, usual_dtype
from convert.tensor_reader import DTYPES, NonFinite, Rows, count_non_finite, row_blocks
from stts_jax.config import ModelConfig

# A file gets no tensor beyond that size, unless it is the only one in there.
PART_BYTES = 5_000_000_000
_NAMES = {dtype: name for name, dtype in DTYPES.items() if not name.startswith("torch.")}


def write_folder(
    folder: Path,
    tensors: Mapping[str, Rows],
    model: ModelConfig,
    dtype: np.dtype | None,
    advance: Callable[[int], Any] = lambda count: None,
) -> dict[str, NonFinite]:
    """Write a complete folder, tensor by tensor.

    Args:
      folder: an existing one.
      tensors: by the name they are to have.
      model: for `config.json`.
      dtype: to store them in, see `stored_dtype`.
      advance: called with the number of values after each block.

    Returns:
      For each tensor that holds NaN or Inf, how many.
    """
    dtypes = {name: stored_dtype([rows], dtype) for name, rows in tensors.items()}
    sizes = {name: math.prod(rows.shape) for name, rows in tensors.items()}
    total = {name: size * dtypes[name].itemsize for name, size in sizes.items()}
    parts = _parts(total, PART_BYTES)
    names = [f"model-{i + 1:05d}-of-{len(parts):05d}.safetensors" for i in range(len(parts))]
    names = [SINGLE] if len(parts) == 1 else names
    not_finite: dict[str, NonFinite] = {}
    for name, part in zip(names, parts, strict=True):
        written = {key: tensors[key] for key in part}
        not_finite |= write_file(folder / name, written, dtypes, advance)
    if len(parts) > 1:
        index = {
            "metadata": {
                "total_size": sum(total.values()),
                "total_parameters": sum(sizes.values()),
            },
            "weight_map": {k: n for n, part in zip(names, parts, strict=True) for k in part},
        }
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    config = hf_config_of(model, usual_dtype(dtypes, sizes).name)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    return not_finite


def write_file(
    path: Path,
    tensors: Mapping[str, Rows],
    dtypes: Mapping[str, np.dtype],
    advance: Callable[[int], Any] = lambda count: None,
) -> dict[str, NonFinite]:
    """Write one safetensors file, a block of rows at a time; what is not finite by tensor."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    reached = 0
    for name, rows in tensors.items():
        end = reached + math.prod(rows.shape) * dtypes[name].itemsize
        header[name] = {
            "dtype": _NAMES[dtypes[name]],
            "shape": list(rows.shape),
            "data_offsets": [reached, end],
        }
        reached = end
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)  # the values start at a multiple of 8
    not_finite: dict[str, NonFinite] = {}
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        for name, rows in tensors.items():
            dtype = dtypes[name]
            for start, stop in row_blocks(rows):
                values = np.ascontiguousarray(rows.read(start, stop).astype(dtype, copy=False))
                file.write(values.view(f"<u{dtype.itemsize}").data)
                if count := count_non_finite(values):
                    not_finite[name] = not_finite.get(name, NonFinite()) + count
                advance(values.size)
    return not_finite


def _parts(sizes: Mapping[str, int], most: int) -> list[list[str]]:
    """Names in order, as many in each part as fit."""
    parts: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if parts[-1] and filled + size > most:
            parts.append([])
            filled = 0
        parts[-1].append(name)
        filled += size
    return parts
