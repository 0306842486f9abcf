"""Names of adapters and of the parameters that they adapt.

A layer `llm.blocks.query` with an adapter has the parameters `llm.blocks.query.base.kernel`,
`.lora_a` and `.lora_b`; the kernel is `llm.blocks.query.kernel` in the checkpoint of its base.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stts_jax.layers.lora import ADAPTERS

_WRAPPED = ".base."


def is_adapter(name: str) -> bool:
    """Returns whether a parameter is a part of an adapter."""
    return name.endswith(tuple(f".{part}" for part in ADAPTERS))


def name_in_base(name: str) -> str:
    """Returns the name that a parameter of an adapted model has without adapters."""
    return name.replace(_WRAPPED, ".")


def target_of(layer: str) -> str:
    """Returns a layer's name as `train.lora.targets` has it: `llm.blocks.query` -> `llm.query`."""
    return layer.replace(".blocks.", ".")


def adapted_layers(named: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Returns `lora_a` and `lora_b` by the dotted name of their layer."""
    a, b = (f".{part}" for part in ADAPTERS)
    layers = [name.removesuffix(a) for name in named if name.endswith(a)]
    return {layer: (named[layer + a], named[layer + b]) for layer in layers}
