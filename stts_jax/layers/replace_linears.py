"""Replaces dense layers of a model by other layers: adapters around them, quantised kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
from flax import nnx

from stts_jax.layers.linear import Linear

M = TypeVar("M", bound=nnx.Module)


def replace_linears(model: M, replace: Callable[[str, Any], Any]) -> M:
    """Returns a model with what `replace` returns instead of each `Linear`.

    The model may hold arrays, abstract arrays or shardings, and stacked blocks; it isn't changed.

    Args:
      model: any NNX module.
      replace: takes the dotted name of a layer (`vit.blocks.attention.query`) and the layer, and
        returns what is called in its place, or the layer.
    """
    copied: M = jax.tree.map(lambda leaf: leaf, model)
    _replace_below(copied, "", replace)
    return copied


def _replace_below(module: nnx.Module, prefix: str, replace: Callable[[str, Any], Any]) -> None:
    for attribute, child in list(vars(module).items()):
        name = f"{prefix}{attribute}"
        if isinstance(child, Linear):
            setattr(module, attribute, replace(name, child))
        elif isinstance(child, nnx.Module):
            _replace_below(child, f"{name}.", replace)
