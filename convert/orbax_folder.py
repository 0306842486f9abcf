"""Writes and reads the arrays of our Orbax checkpoints part by part.

Orbax saves whole arrays, but a parameter that is stacked over layers can be larger than the memory
that a conversion may use. So Orbax writes the checkpoint with one value for each parameter, and
tensorstore, which Orbax stores arrays with, then writes the real arrays over them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import tensorstore as ts
from jax.sharding import AbstractMesh
from orbax.checkpoint import v1 as ocp

from convert.mapping import ParameterMapping
from convert.names import Name, name_table
from convert.stored_dtype import stored_dtype
from convert.tensor_reader import (
    ConvertError,
    NonFinite,
    Rows,
    count_non_finite,
    join_parts,
    row_blocks,
)
from stts_jax.buckets.address import is_bucket
from stts_jax.buckets.whole_files import COMMITTED
from stts_jax.config import ModelConfig
from stts_jax.model.video_language_model import VideoLanguageModel
from stts_jax.parallel.mesh import MESH_AXES, parameter_shardings
from stts_jax.parallel.parameters import named_parameters
from stts_jax.quoting import shorten
from stts_jax.training.checkpointing.checkpoint_errors import (
    CheckpointError,
    reading,
)
from stts_jax.training.checkpointing.opened import open_checkpoint
from stts_jax.training.checkpointing.run_folder import MODEL
from stts_jax.training.checkpointing.stored_arrays import METADATA, read_metadata, spec_of

# Arrays are stored in blocks that are within the part of one of so many processes that share them
# on the mesh axis `fsdp`, so that each reads its own part only; and that are no larger than this.
STORED_PARTS = 16
STORED_BLOCK_BYTES = 8 << 20
# A layer of a parameter that takes no more bytes is one block: each block is a file, and a request
# in a bucket.
UNDIVIDED_BYTES = 64 << 10


def write_arrays(
    folder: Path,
    mappings: Sequence[ParameterMapping],
    model: ModelConfig,
    dtype: np.dtype | None,
    advance: Any = lambda count: None,
) -> dict[str, NonFinite]:
    """Write a complete Orbax checkpoint of these parameters into a folder that doesn't exist yet.

    Args:
      folder: the checkpoint.
      mappings: of every parameter.
      model: that they are the parameters of.
      dtype: to store them in, see `stored_dtype`.
      advance: called with the number of values after each block.

    Returns:
      For each parameter that holds NaN or Inf, how many.
    """
    dtypes = {mapping.name.ours: stored_dtype(mapping.layers, dtype) for mapping in mappings}
    _write_skeleton(folder, mappings, dtypes)
    sizes = {each.itemsize for each in dtypes.values()}
    blocks = {size: stored_blocks(model, size) for size in sizes}
    not_finite: dict[str, NonFinite] = {}
    metadata = read_metadata(folder / MODEL)
    for mapping in mappings:
        ours = mapping.name.ours
        stored = dtypes[ours]
        block = blocks[stored.itemsize][ours]
        array = _create(spec_of(folder / MODEL, ours, metadata), mapping, stored, block)
        pending: list[Any] = []
        for index, values in _blocks(mapping, block):
            values = values.astype(stored, copy=False)
            if count := count_non_finite(values):
                not_finite[ours] = not_finite.get(ours, NonFinite()) + count
            # Two writes under way keep both cores busy and little in memory.
            if len(pending) > 1:
                pending.pop(0).result()
            pending.append(array[index].write(values))
            advance(values.size)
        for write in pending:
            write.result()
    return not_finite


def _blocks(mapping: ParameterMapping, stored: tuple[int, ...]) -> Iterator[tuple[Any, np.ndarray]]:
    """A parameter's values in whole stored blocks, each with the index it has in the parameter."""
    unit = stored[-1] if mapping.name.transpose else stored[1 if mapping.stacked else 0]
    for layer, rows in enumerate(mapping.layers):
        for start, stop in row_blocks(rows, unit):
            values = rows.read(start, stop)
            part = slice(start, stop)
            index: tuple[slice, ...]
            if mapping.name.transpose:
                index, values = (slice(None), part), values.T
            else:
                index = (part,)
            yield ((layer, *index) if mapping.stacked else index), values


def stored_blocks(model: ModelConfig, itemsize: int) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each parameter's blocks: one layer, and of a large one a process's part.

    Args:
      model: that has the parameters.
      itemsize: bytes of a value.
    """
    axes = tuple(STORED_PARTS if axis == "fsdp" else 1 for axis in MESH_AXES)
    mesh: Any = AbstractMesh(axes, MESH_AXES)  # its axes are all that shardings need
    abstract = jax.eval_shape(lambda: VideoLanguageModel(model, key=jax.random.key(0)))
    shardings = named_parameters(parameter_shardings(abstract, mesh))
    stacked = {name.ours for name in name_table(model) if "{layer}" in name.native}
    blocks = {}
    for name, parameter in named_parameters(abstract).items():
        part, whole = shardings[name].shard_shape(parameter.shape), parameter.shape
        if name in stacked:
            part, whole = (1, *part[1:]), (1, *whole[1:])
        undivided = np.prod(whole, dtype=np.int64) * itemsize <= UNDIVIDED_BYTES
        blocks[name] = _halved(list(whole if undivided else part), itemsize)
    return blocks


def _halved(block: list[int], itemsize: int) -> tuple[int, ...]:
    """Its longest axis halved until it is small enough."""
    while np.prod(block, dtype=np.int64) * itemsize > STORED_BLOCK_BYTES:
        axis = int(np.argmax(block))
        block[axis] = -(-block[axis] // 2)
    return tuple(block)


# ------------------------------------------------------------------------------------- on disk


def _write_skeleton(
    folder: Path, mappings: Sequence[ParameterMapping], dtypes: Mapping[str, np.dtype]
) -> None:
    context = ocp.Context()
    context.array.saving.use_ocdbt = False  # a file for each block, written in any order
    context.array.saving.enable_write_sharding_file = False
    context.array.saving.array_metadata_store = None
    with context, _quiet():
        ocp.save_checkpointables(
            folder, {MODEL: {name: np.zeros((1,), dtype) for name, dtype in dtypes.items()}}
        )
    path = folder / MODEL / METADATA
    metadata = json.loads(path.read_text())
    shapes = {mapping.name.ours: list(mapping.shape) for mapping in mappings}
    for entry in metadata["tree_metadata"].values():
        name = entry["key_metadata"][0]["key"]
        entry["value_metadata"]["write_shape"] = shapes[name]
    path.write_text(json.dumps(metadata))
    if is_bucket(folder):
        (folder / COMMITTED).unlink()  # until all is there, see `pipeline.convert`


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Orbax's warning that there is nothing to merge, which is as it should be."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _create(
    spec: dict[str, Any], mapping: ParameterMapping, dtype: np.dtype, block: tuple[int, ...]
) -> Any:
    return ts.open(
        # Orbax reads no block that isn't there, and a bias may well be all zeros.
        {**spec, "store_data_equal_to_fill_value": True},
        create=True,
        delete_existing=True,
        dtype=ts.dtype(dtype.name),
        shape=mapping.shape,
        chunk_layout=ts.ChunkLayout(chunk_shape=block),
    ).result()


# ------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class LowRank:
    """An adapter of a kernel: `scale * a @ b`.

    Attributes:
      a: (inputs, rank) float32, perhaps stacked.
      b: (rank, outputs).
      scale: alpha / rank.
    """

    a: np.ndarray
    b: np.ndarray
    scale: float

    def columns(self, layer: int | None, start: int, stop: int) -> np.ndarray:
        """Returns columns [start, stop) of what it adds to a layer's kernel."""
        a, b = (self.a, self.b) if layer is None else (self.a[layer], self.b[layer])
        columns: np.ndarray = np.float32(self.scale) * (a @ b[:, start:stop])
        return columns


@dataclass(frozen=True)
class ParameterRows:
    """A layer of one of our stored parameters, as the rows of the tensor others have for it."""

    array: Any
    name: Name
    layer: int | None
    checkpoint: Path
    adapter: LowRank | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the other system's tensor (of our part of it)."""
        shape = tuple(self.array.shape[1:] if self.layer is not None else self.array.shape)
        return shape[::-1] if self.name.transpose else shape

    @property
    def dtype(self) -> np.dtype:
        """Dtype of the stored values."""
        name = self.array.dtype.name
        return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop).

        Raises:
          ConvertError: if they can't be read.
        """
        array = self.array if self.layer is None else self.array[self.layer]
        with _reading(self.checkpoint):
            if not self.name.transpose:
                return array[start:stop].read().result()
            kernel = array[:, start:stop].read().result()
        if self.adapter is not None:
            added = self.adapter.columns(self.layer, start, stop)
            kernel = (kernel.astype(np.float32) + added).astype(kernel.dtype)
        return kernel.T


_READ_DTYPES = ("float32", "float16", "bfloat16")


def read_arrays(
    checkpoint: Path, model: ModelConfig, column: str, base: Path | None = None
) -> dict[str, Rows]:
    """Our stored parameters as the tensors of another column; only adapters are read yet.

    Kernels with adapters are merged with them.

    Args:
      checkpoint: folder of a step.
      model: what its config.json describes.
      column: of the table of names.
      base: folder of the model that adapters belong to, by default where it was.

    Raises:
      ConvertError: if the checkpoint is damaged, lacks parameters of the table, or holds others.
    """
    table, layers = name_table(model), {"llm": model.llm.layers, "vit": model.vit.depth}
    with _reading(checkpoint):
        opened = open_checkpoint(checkpoint, base)
        adapters = {
            name: LowRank(a.read().result(), b.read().result(), opened.scale)
            for name, (a, b) in opened.adapters.items()
        }
    arrays = dict(opened.parameters)
    if opened.base is not None and model.prune.method != "scorer":
        arrays = {name: array for name, array in arrays.items() if not name.startswith("scorer.")}
    stored, wanted = set(arrays), {name.ours for name in table}
    if stored != wanted:
        raise ConvertError(
            f"checkpoint '{checkpoint}' doesn't fit its config.json: it lacks "
            f"{shorten(sorted(wanted - stored)) if wanted - stored else 'nothing'} and has "
            f"{shorten(sorted(stored - wanted)) if stored - wanted else 'nothing'} too much; copy "
            "the config.json of its run"
        )
    for name, array in arrays.items():
        if array.dtype.name not in _READ_DTYPES:
            raise ConvertError(
                f"{shorten(name)} of checkpoint '{checkpoint}' is of type {array.dtype.name}; "
                f"only {', '.join(_READ_DTYPES)} can be read"
            )
    tensors: dict[str, dict[int, Rows]] = {}
    for row in table:
        array = arrays[row.ours]
        template, bounds = row.in_column(column)
        stacked = "{layer}" in template
        if stacked and (not array.shape or array.shape[0] != layers[row.ours.split(".")[0]]):
            raise ConvertError(
                f"'{row.ours}' of checkpoint '{checkpoint}' has the shape {array.shape}, but its "
                f"config.json says {layers} layers; copy the config.json of its run"
            )
        for layer in range(array.shape[0]) if stacked else [None]:
            theirs = template.format(layer=layer) if stacked else template
            start = bounds[0] if bounds else 0
            tensors.setdefault(theirs, {})[start] = ParameterRows(
                array, row, layer, opened.base or checkpoint, adapters.get(row.ours)
            )
    return join_parts(tensors)


@contextmanager
def _reading(checkpoint: Path) -> Iterator[None]:
    """Raises this package's errors in the block; see `checkpoint.reading`."""
    try:
        with reading(checkpoint):
            yield
    except CheckpointError as error:
        raise ConvertError(str(error)) from error
