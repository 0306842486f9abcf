"""Parameters: random keys, and one declaration of shape, logical axes and initialiser."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

Initializer = Callable[[jax.Array, Sequence[int], Any], jax.Array]
M = TypeVar("M")
_KEY_BITS = 32


def key_of_seed(seed: int) -> jax.Array:
    """Returns JAX's key of a seed of 0 to 2^63 - 1; `jax.random.key` uses 32 bits only.

    Seeds below 2^32 have the keys that `jax.random.key` gives them.
    """
    key = jax.random.key(seed % 2**_KEY_BITS)
    high = seed >> _KEY_BITS
    return jax.random.fold_in(key, high) if high else key


def truncated_normal(stddev: float) -> Initializer:
    """Returns an initializer: a normal of this deviation, truncated at +-2 as in the reference."""

    def initialize(key: jax.Array, shape: Sequence[int], dtype: Any) -> jax.Array:
        bound = 2.0 / stddev
        return stddev * jax.random.truncated_normal(key, -bound, bound, shape, dtype)

    return initialize


def parameter(
    initializer: Initializer, key: jax.Array, shape: Sequence[int], axes: Sequence[str | None]
) -> nnx.Param:
    """Makes a float32 parameter.

    Args:
      initializer: fills it from `key`.
      key: random key.
      shape: its shape; stacking over layers adds one leading axis later.
      axes: one logical axis name (or None) per dimension; `parallel.mesh` maps them to a mesh.
    """
    if len(shape) != len(axes):
        raise ValueError(f"a parameter of shape {tuple(shape)} has {len(axes)} axis names: {axes}")
    return nnx.Param(initializer(key, shape, jnp.float32), logical_axes=tuple(axes))


def stack(make: Callable[[jax.Array], M], key: jax.Array, count: int) -> M:
    """Makes `count` modules from `count` keys, stacked as one module with a leading layer axis.

    The leading axis is for `lax.scan`; it has no logical axis and is never sharded.
    """
    return jax.vmap(make)(jax.random.split(key, count))


def count_parameters(module: Any) -> int:
    """Returns the number of scalars in a module or an abstract module."""
    return sum(leaf.size for leaf in jax.tree.leaves(module))


def named_parameters(module: Any) -> dict[str, Any]:
    """Returns parameters (or gradients, abstract arrays, ... of the same structure) by dotted name.

    For example `vit.blocks.attention.query.kernel`; stacked ones have a leading layer axis.
    """
    leaves = jax.tree_util.tree_flatten_with_path(module)[0]
    return {parameter_name(path): leaf for path, leaf in leaves}


def replace_parameters(module: M, changed: Mapping[str, Any]) -> M:
    """Returns a module with other leaves under some of its dotted names."""
    leaves = [changed.get(name, leaf) for name, leaf in named_parameters(module).items()]
    replaced: M = jax.tree.unflatten(jax.tree.structure(module), leaves)
    return replaced


def parameter_name(path: tuple[Any, ...]) -> str:
    """Returns the dotted name of a leaf from its pytree path."""
    name = jax.tree_util.keystr(path, simple=True, separator=".")
    return name.removesuffix(".value")
