"""Dataclasses that are pytrees, in whose fields JAX may put other things than arrays."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any, TypeVar

import jax

T = TypeVar("T", bound=type)


def register_pytree(cls: T) -> T:
    """Registers a dataclass as a pytree of its fields.

    Unlike `jax.tree_util.register_dataclass`, it doesn't call the constructor with what JAX puts in
    place of arrays (shardings, stacked arrays under `vmap`), which a check of shapes would refuse.

    Args:
      cls: the dataclass; a field with the metadata `static` is no leaf.
    """
    static = [field.name for field in fields(cls) if field.metadata.get("static")]
    leaves = [field.name for field in fields(cls) if field.name not in static]

    def flatten_with_keys(x: Any) -> tuple[list[tuple[Any, Any]], tuple[Any, ...]]:
        keyed = [(jax.tree_util.GetAttrKey(name), getattr(x, name)) for name in leaves]
        return keyed, tuple(getattr(x, name) for name in static)

    def flatten(x: Any) -> tuple[list[Any], tuple[Any, ...]]:
        return [getattr(x, name) for name in leaves], tuple(getattr(x, name) for name in static)

    def unflatten(values: tuple[Any, ...], children: Iterable[Any]) -> Any:
        made: Any = object.__new__(cls)
        vars(made).update(zip(leaves, children, strict=True))
        vars(made).update(zip(static, values, strict=True))
        return made

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls
