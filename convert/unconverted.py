"""Opens a PyTorch checkpoint to be read where it is, without a converted copy of its parameters.

Each of our parameters is a TensorStore array whose blocks are read from the checkpoint's own files,
transposed where ours is.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from convert.cache import cached_copy
from convert.mapping import ParameterMapping
from convert.pipeline import output_config, plan
from convert.sources import Options, is_foreign, open_source
from convert.stored_dtype import stored_dtype
from convert.tokenizer_files import Files
from stts_jax.training.checkpointing.opened import OpenedCheckpoint, open_checkpoint

# Bytes of a block, which are read at a time.
_BLOCK_BYTES = 8 << 20


def open_unconverted(folder: Path, notice: Callable[[str], None] = print) -> OpenedCheckpoint:
    """Returns a checkpoint in any form that `python -m convert` reads; no values are read yet.

    Of a PyTorch checkpoint the tokenizer alone is copied, beside the copies of
    `cache.local_checkpoint`.

    Args:
      folder: of the checkpoint.
      notice: takes a line of text.

    Raises:
      ConvertError: if it can't be read.
      CheckpointError: if it is one of ours, and damaged.
    """
    if not folder.is_dir() or not is_foreign(folder):
        return open_checkpoint(folder)
    planned = plan(open_source(folder, Options()))
    notice(f"'{folder}' is a checkpoint of another form ({planned.source.kind}); ")
    notice("it is read where it is")
    for note in planned.notes:
        notice(f"  {note}")
    arrays = {mapping.name.ours: stored_array(mapping) for mapping in planned.mappings}
    target = cached_copy(folder, "settings")
    if planned.source.tokenizer is not None and not target.is_dir():
        _write_tokenizer(planned.source.tokenizer, target)
    has_tokenizer = planned.source.tokenizer is not None
    config = output_config(planned.model, target, has_tokenizer)
    return OpenedCheckpoint(folder, folder, arrays, arrays, own_config=config)


def stored_array(mapping: ParameterMapping) -> Any:
    """Returns a parameter as a TensorStore array, whose blocks are parts of a layer."""
    dtype, transpose = stored_dtype(mapping.layers, None), mapping.name.transpose
    shape = mapping.shape[1:] if mapping.stacked else mapping.shape

    def of_layer(layer: int, bounds: list[slice]) -> np.ndarray:
        if not bounds:
            return mapping.layers[layer].read(0, 1).reshape(())
        # Rows of the tensor are columns of ours, or rows.
        rows, others = (bounds[-1], bounds[:-1]) if transpose else (bounds[0], bounds[1:])
        values = mapping.layers[layer].read(rows.start, rows.stop)[:, *others]
        return values.T if transpose else values

    def read(domain: Any, block: np.ndarray, parameters: Any) -> None:
        del parameters
        bounds = [slice(side.inclusive_min, side.exclusive_max) for side in domain]
        if not mapping.stacked:
            block[...] = of_layer(0, bounds)
            return
        for index, layer in enumerate(range(bounds[0].start, bounds[0].stop)):
            block[index] = of_layer(layer, bounds[1:])

    whole = math.prod(shape) * dtype.itemsize
    block = list(shape)
    if shape:
        axis = -1 if transpose else 0
        block[axis] = max(1, shape[axis] * min(_BLOCK_BYTES, whole) // max(1, whole))
    return ts.virtual_chunked(
        read,
        dtype=ts.dtype(dtype.name),
        shape=mapping.shape,
        chunk_layout=ts.ChunkLayout(read_chunk_shape=[*([1] if mapping.stacked else []), *block]),
    )


def _write_tokenizer(files: Files, target: Path) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    temporary.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (temporary / name).write_text(text, encoding="utf-8")
    try:
        temporary.rename(target)
    except OSError:  # another process has made it meanwhile
        shutil.rmtree(temporary, ignore_errors=True)
