"""Models from arrays in memory under the reference's names, and back, for tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import numpy as np

from convert.names import Name
from stts_jax.parallel.parameters import named_parameters, parameter_name

M = TypeVar("M")


def from_native(model: M, arrays: Mapping[str, np.ndarray], table: tuple[Name, ...]) -> M:
    """A copy of `model` (real or abstract) filled from native arrays.

    Raises:
      ValueError: one message that lists every native tensor that is missing, unread or misshapen,
        and every parameter that nothing fills.
    """
    rows = {name.ours: name for name in table}
    problems: list[str] = []
    read: set[str] = set()

    def fill(path: Any, leaf: Any) -> Any:
        ours = parameter_name(path)
        if ours not in rows:
            problems.append(f"{ours}: nothing fills it")
            return leaf
        try:
            array = _read(rows[ours], arrays, leaf, read)
        except KeyError as error:
            problems.append(f"{ours}: {error.args[0]} is missing")
            return leaf
        if array.shape != leaf.shape:
            problems.append(f"{ours}: shape {array.shape}, but the model wants {leaf.shape}")
        return array

    filled = jax.tree_util.tree_map_with_path(fill, model)
    problems += [f"{name}: nobody reads it" for name in sorted(set(arrays) - read)]
    if problems:
        raise ValueError("the checkpoint does not fit the model:\n  " + "\n  ".join(problems))
    return filled


def _read(name: Name, arrays: Mapping[str, np.ndarray], leaf: Any, read: set[str]) -> np.ndarray:
    def one(native: str) -> np.ndarray:
        array = arrays[native]
        read.add(native)
        if name.rows is not None:
            array = array[slice(*name.rows)]
        return array.T if name.transpose else array

    if "{layer}" not in name.native:
        return one(name.native)
    return np.stack([one(name.native.format(layer=i)) for i in range(leaf.shape[0])])


def to_native(model: Any, table: tuple[Name, ...]) -> dict[str, np.ndarray]:
    """Native arrays of a model, or of anything shaped like it (gradients)."""
    ours = named_parameters(model)
    parts: dict[str, list[tuple[int, np.ndarray]]] = {}
    for name in table:
        array = np.asarray(ours[name.ours])
        layers = array if "{layer}" in name.native else array[None]
        for index, layer in enumerate(layers):
            start = name.rows[0] if name.rows else 0
            part = (start, layer.T if name.transpose else layer)
            parts.setdefault(name.native.format(layer=index), []).append(part)
    return {
        native: np.concatenate([array for _, array in sorted(found, key=lambda part: part[0])])
        for native, found in parts.items()
    }
