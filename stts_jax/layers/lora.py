"""Low-rank adapters of dense layers (LoRA, arXiv 2106.09685, section 4.1)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from stts_jax.parallel.mesh import on_one_device

ADAPTERS = ("lora_a", "lora_b")
M = TypeVar("M", bound=nnx.Module)


class LoraLinear(nnx.Module):
    """`base(x) + scale * (dropout(x) @ lora_a) @ lora_b`, computed in the dtype of `x`.

    Attributes:
      base: a `Linear`, or any other layer of its call and kernel.
      lora_a: (in, rank), or (layers, in, rank) if the base is stacked; initialised as PEFT does.
      lora_b: (rank, out), or stacked; zeros at first, so that the layer begins as its base.
      dropout_key: of this call, None without dropout; see `with_dropout_keys`.
    """

    def __init__(
        self, base: Any, *, rank: int, scale: float, dropout: float, key: jax.Array
    ) -> None:
        """Wraps a layer.

        Args:
          base: the layer.
          rank: width of the adapter.
          scale: alpha / rank.
          dropout: share of the inputs of the adapter that are dropped.
          key: for `lora_a`.
        """
        *stacked, inputs, outputs = base.kernel.shape
        axes = base.kernel.logical_axes
        self.scale, self.dropout = scale, dropout
        self.base = base
        self.lora_a = nnx.Param(
            _kaiming_uniform(key, (*stacked, inputs, rank)), logical_axes=(axes[0], None)
        )
        self.lora_b = nnx.Param(jnp.zeros((*stacked, rank, outputs)), logical_axes=(None, axes[1]))
        self.dropout_key: nnx.Variable | None = nnx.data(None)

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        """Applies the layer: (..., inputs) -> (..., outputs)."""
        dropped = x
        if self.dropout_key is not None:
            keep = jax.random.bernoulli(self.dropout_key[...], 1.0 - self.dropout, x.shape)
            dropped = jnp.where(keep, x / (1.0 - self.dropout), 0).astype(x.dtype)
        # As in `Linear`: plain matrix products where no sharded dimensions are merged.
        rows = dropped.reshape(-1, x.shape[-1]) if on_one_device() else dropped
        narrow = jnp.dot(rows, self.lora_a[...].astype(x.dtype))
        added = jnp.dot(narrow, self.lora_b[...].astype(x.dtype)) * self.scale
        return self.base(x) + added.reshape(*x.shape[:-1], -1)


def merged_kernel(
    kernel: jax.Array, lora_a: jax.Array, lora_b: jax.Array, scale: float, dtype: DTypeLike
) -> jax.Array:
    """Returns `kernel + scale * lora_a @ lora_b`, added in float32, as `dtype`.

    Args:
      kernel: (in, out), or (layers, in, out); layers are merged one after the other.
      lora_a: (in, rank), or stacked.
      lora_b: (rank, out), or stacked.
      scale: alpha / rank.
      dtype: of the result.
    """

    def merged(layer: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        kernel, a, b = (array.astype(jnp.float32) for array in layer)
        product = jnp.dot(a, b, precision=jax.lax.Precision.HIGHEST)
        return (kernel + scale * product).astype(dtype)

    layers = (kernel, lora_a, lora_b)
    return jax.lax.map(merged, layers) if kernel.ndim == 3 else merged(layers)


def with_dropout_keys(model: M, key: jax.Array) -> M:
    """Returns a model whose adapters drop inputs, each by a key of its own, and each layer's.

    Args:
      model: any NNX module; it isn't changed.
      key: of the step.
    """
    copied: M = jax.tree.map(lambda leaf: leaf, model)

    def give(name: str, layer: LoraLinear) -> None:
        nonlocal key
        key, own = jax.random.split(key)
        stacked = layer.lora_a.shape[:-2]
        own = jax.random.split(own, stacked) if stacked else own
        layer.dropout_key = nnx.Variable(own)

    for_each_adapted(copied, give)
    return copied


def for_each_adapted(
    module: nnx.Module, act: Callable[[str, LoraLinear], Any], prefix: str = ""
) -> None:
    """Calls `act` with the dotted name of each layer that has an adapter, and the layer."""
    for attribute, child in list(vars(module).items()):
        name = f"{prefix}{attribute}"
        if isinstance(child, LoraLinear):
            act(name, child)
        elif isinstance(child, nnx.Module):
            for_each_adapted(child, act, f"{name}.")


def _kaiming_uniform(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns `kaiming_uniform_` of torch with `a = sqrt(5)`: uniform up to 1 / sqrt(inputs)."""
    bound = 1.0 / math.sqrt(shape[-2])
    return jax.random.uniform(key, shape, jnp.float32, -bound, bound)
