"""Reads parameters of a checkpoint onto their devices, each of them held once.

An array is cast while it is read, into the memory that a CPU then computes with, and is on its
devices before the next one is read. So the host holds the parameters in the type that they are
wanted in, and of what is read besides a few blocks. Weights of int8 are quantised while they are
read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
import tensorstore as ts

from stts_jax.model.int8_weights import scales_of, without_scales
from stts_jax.parallel.processes import is_first
from stts_jax.terminal import byte_bar
from stts_jax.training.checkpointing.int8_loading import Bounds, Int8Reader

# Bytes of an array that are read at a time, where its stored blocks are no larger.
_READ_BYTES = 1 << 24
# XLA:CPU computes in place with a NumPy array that begins at a multiple of this address, and copies
# any other one.
_ALIGNMENT = 64


def load_parameters(
    stored: Mapping[str, Any],
    wanted: Mapping[str, jax.ShapeDtypeStruct],
    said: str = "reading parameters",
) -> dict[str, jax.Array]:
    """Returns the parameters in `wanted`; this process reads what its devices hold of them.

    Args:
      stored: arrays of a checkpoint by name, see `stored_arrays.open_arrays`.
      wanted: shape, dtype and sharding of each parameter to read, and of the scales of those that
        are wanted in int8.
      said: beside the bar of bytes.

    Raises:
      CheckpointError: if a parameter that is wanted in int8 has values that are not finite.
      OSError, ValueError, TypeError, MemoryError: if files are damaged or can't be read.
      JaxRuntimeError: if a device lacks memory.
    """
    total = sum(_bytes_here(leaf) for leaf in wanted.values())
    quantized = scales_of(wanted)
    loaded: dict[str, jax.Array] = {}
    with byte_bar(said, total, shown=is_first()) as advance:
        for name in without_scales(wanted):
            if name not in quantized:
                read = partial(_read, stored[name], dtype=wanted[name].dtype)
                loaded[name] = _load(wanted[name], partial(read, advance=advance))
                continue
            scale, axis = quantized[name]
            reader = _int8_reader(name, stored[name], axis)
            loaded[name] = _load(wanted[name], partial(reader.part, advance=advance))
            loaded[scale] = _load(wanted[scale], partial(reader.scale, advance=advance))
    return loaded


def _int8_reader(name: str, stored: Any, axis: int) -> Int8Reader:
    itemsize = stored.dtype.numpy_dtype.itemsize

    def cut(bounds: Bounds, whole: int | None) -> Iterator[Bounds]:
        block = list(stored.chunk_layout.read_chunk.shape)
        if whole is not None:
            block[whole] = stored.shape[whole]
        return _groups(bounds, tuple(block), itemsize)

    def read(bounds: Bounds) -> np.ndarray:
        return _read(stored, bounds, np.float32, lambda _: None)

    shape = tuple(stored.shape)
    return Int8Reader(name, shape, axis, read=read, cut=cut, empty=_aligned)


def _load(leaf: jax.ShapeDtypeStruct, read: Callable[[Bounds], np.ndarray]) -> jax.Array:
    parts: dict[Bounds, np.ndarray] = {}

    def part_of(index: tuple[slice, ...] | None) -> np.ndarray:
        bounds = tuple(
            side.indices(size)[:2] for side, size in zip(index or (), leaf.shape, strict=True)
        )
        if bounds not in parts:  # several devices may hold copies of one part
            parts[bounds] = read(bounds)
        return parts[bounds]

    array = jax.make_array_from_callback(leaf.shape, leaf.sharding, part_of, dtype=leaf.dtype)
    # A device may copy in the background, and the part stays in memory until then.
    return jax.block_until_ready(array)


def _read(stored: Any, bounds: Bounds, dtype: Any, advance: Callable[[int], Any]) -> np.ndarray:
    """Returns a part of a stored array as `dtype`, read and cast some blocks at a time."""
    values = _aligned(tuple(stop - start for start, stop in bounds), np.dtype(dtype))
    source = ts.cast(stored, ts.dtype(values.dtype.name))
    # Indexed as the stored array is.
    target = ts.array(values)[ts.d[:].translate_by[tuple(start for start, _ in bounds)]]
    itemsize = stored.dtype.numpy_dtype.itemsize
    block = stored.chunk_layout.read_chunk.shape or ()  # None of a single value
    for group in _groups(bounds, block, itemsize):
        index = tuple(slice(start, stop) for start, stop in group)
        target[index].write(source[index]).result()
        advance(values.itemsize * math.prod(stop - start for start, stop in group))
    return values


def _groups(bounds: Bounds, block: tuple[int, ...], itemsize: int) -> Iterator[Bounds]:
    """Halves a part between stored blocks until `_READ_BYTES` hold it, or it is of one block.

    Args:
      bounds: of the part.
      block: shape of the stored blocks.
      itemsize: bytes of a stored value.
    """
    size = itemsize * math.prod(stop - start for start, stop in bounds)
    # First and last block along each axis.
    spans = [(a // side, (b - 1) // side) for (a, b), side in zip(bounds, block, strict=True)]
    axis = max(range(len(spans)), key=lambda axis: spans[axis][1] - spans[axis][0], default=None)
    if size <= _READ_BYTES or axis is None or spans[axis][0] == spans[axis][1]:
        yield bounds
        return
    cut = (sum(spans[axis]) + 1) // 2 * block[axis]
    for half in ((bounds[axis][0], cut), (cut, bounds[axis][1])):
        yield from _groups((*bounds[:axis], half, *bounds[axis + 1 :]), block, itemsize)


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Returns an uninitialised array that a CPU device takes without a copy."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def _bytes_here(leaf: jax.ShapeDtypeStruct) -> int:
    """Returns the bytes that this process reads of a parameter: each part of it once."""
    sharding = leaf.sharding
    assert sharding is not None
    held = sharding.addressable_devices_indices_map(leaf.shape).values()
    part = math.prod(sharding.shard_shape(leaf.shape))
    return len({str(index) for index in held}) * part * np.dtype(leaf.dtype).itemsize
