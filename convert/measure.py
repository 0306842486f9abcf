"""Measures a conversion of full size: `python -m convert.measure FOLDER --config molmo2_4b`.

Writes a Hugging Face folder with random weights, copies it file by file, converts it in a process
of its own, and prints the time of both and the memory that the conversion took at most. What it
wrote is deleted at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from convert.hf_folder import write_folder
from convert.names import HF, HF_HEAD, name_table
from convert.pipeline import abstract_parameters
from convert.stored_dtype import DTYPES
from convert.tensor_reader import Rows
from stts_jax.arguments import Parser
from stts_jax.config import ModelConfig, load_config

# Random rows are drawn once and repeated: drawing billions would take longer than converting them.
_DRAWN = np.random.default_rng(0).standard_normal(1 << 20, dtype=np.float32) * 0.02


@dataclass(frozen=True)
class RandomRows:
    """A tensor of random values."""

    shape: tuple[int, ...]
    dtype: np.dtype

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop)."""
        shape = (stop - start, *self.shape[1:])
        return np.resize(_DRAWN.astype(self.dtype), shape)


def random_tensors(model: ModelConfig, dtype: np.dtype) -> dict[str, Rows]:
    """Every tensor of a Hugging Face folder of this model, head included."""
    parameters = abstract_parameters(model)
    shapes: dict[str, tuple[int, ...]] = {}
    for name in name_table(model):
        template, bounds = name.in_column(HF)
        shape = tuple(parameters[name.ours].shape)
        stacked = "{layer}" in template
        one = shape[1:] if stacked else shape
        one = one[::-1] if name.transpose else one
        for layer in range(shape[0]) if stacked else [0]:
            theirs = template.format(layer=layer)
            rows = max(bounds[1] if bounds else one[0], shapes.get(theirs, (0,))[0])
            shapes[theirs] = (rows, *one[1:])
    if model.llm.tied_head:
        shapes[HF_HEAD] = shapes["model.transformer.wte.embedding"]
    return {name: RandomRows(shape, dtype) for name, shape in shapes.items()}


def folder_bytes(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def measure(folder: Path, config: str, source_dtype: str, target_dtype: str) -> dict[str, float]:
    """Write, copy, convert; seconds, bytes and the most memory that was resident."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="measure-") as made:
        return _measure(Path(made), load_config(config).model, source_dtype, target_dtype)


def _measure(folder: Path, model: ModelConfig, source_dtype: str, dtype: str) -> dict[str, float]:
    source, copy, target = folder / "source", folder / "copy", folder / "converted"
    source.mkdir()
    tensors = random_tensors(model, DTYPES[source_dtype])
    total = sum(int(np.prod(rows.shape, dtype=np.int64)) for rows in tensors.values())
    with tqdm(total=total, desc="writing", unit="param", unit_scale=True) as bar:
        write_folder(source, tensors, model, DTYPES[source_dtype], bar.update)
    started = time.monotonic()
    shutil.copytree(source, copy)
    os.sync()
    copying = time.monotonic() - started
    shutil.rmtree(copy)
    started = time.monotonic()
    command = [sys.executable, "-m", "convert", str(source), str(target), "--dtype", dtype]
    subprocess.run(command, check=True)
    os.sync()
    converting = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return {
        "parameters": total,
        "source_gb": folder_bytes(source) / 1e9,
        "converted_gb": folder_bytes(target) / 1e9,
        "copy_seconds": copying,
        "convert_seconds": converting,
        "ratio": converting / copying,
        "peak_resident_gb": peak / 1e9,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the figures as JSON."""
    parser = Parser(
        prog="python -m convert.measure",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="on the disk to measure; needs room for all")
    parser.add_argument("--config", default="molmo2_4b")
    parser.add_argument("--source-dtype", choices=sorted(DTYPES), default="bfloat16")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="bfloat16")
    options = parser.parse_args(arguments)
    found = measure(options.folder, options.config, options.source_dtype, options.dtype)
    print(json.dumps({name: round(value, 2) for name, value in found.items()}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
