"""Dense layer with a kernel of int8 and a scale for each output."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from stts_jax.layers.linear import Linear
from stts_jax.parallel.mesh import on_one_device
from stts_jax.parallel.platform import rows_of_product

# The largest whole number: int8 is used symmetrically.
LARGEST = 127
# Channels with no larger weight become zeros: float32 couldn't hold a scale for them.
_SMALLEST = 2.0**-100


class Int8Linear(nnx.Module):
    """`x @ kernel * scale + bias`, computed in the dtype of `x`; weights are int8, x is not.

    The scale comes after the product, so the product reads bytes: int8 is exact in bfloat16, and
    compilers widen it inside of the product.

    Attributes:
      kernel: (inputs, outputs) int8.
      scale: (outputs,) float32.
      bias: (outputs,), or None.
    """

    def __init__(self, kernel: nnx.Param, scale: nnx.Param, bias: nnx.Param | None) -> None:
        self.kernel = kernel
        self.scale = scale
        self.bias = bias

    @classmethod
    def of(cls, layer: Linear) -> Int8Linear:
        """Returns a layer of arrays or abstract arrays, perhaps stacked, with an int8 kernel."""
        return cls(*quantized_parameter(layer.kernel, -2), layer.bias)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the layer: (..., inputs) -> (..., outputs)."""
        y = scaled_product(x, self.kernel[...], self.scale[...], x.dtype)
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)


def scaled_product(
    x: jax.Array, kernel: jax.Array, scale: jax.Array, dtype: DTypeLike
) -> jax.Array:
    """Returns `x @ kernel * scale`, the product in the dtype of `x`.

    Args:
      x: (..., inputs).
      kernel: (inputs, outputs) int8.
      scale: (outputs,) float32.
      dtype: of the product and of the result.

    Returns:
      (..., outputs).
    """
    rows = x.reshape(-1, x.shape[-1]) if on_one_device() else x
    count = rows.shape[-2]
    more = rows_of_product(count) - count
    if more:
        rows = jnp.pad(rows, [(0, 0)] * (rows.ndim - 2) + [(0, more), (0, 0)])
    product = jnp.dot(rows, kernel.astype(x.dtype), preferred_element_type=dtype)
    product = product[..., :count, :].reshape(*x.shape[:-1], -1)
    return (product * scale).astype(dtype)


def quantized_parameter(parameter: nnx.Param, axis: int) -> tuple[nnx.Param, nnx.Param]:
    """Returns a parameter's int8 values, and the scales of its channels as another parameter.

    Args:
      parameter: of an array or an abstract array, perhaps stacked.
      axis: -1 or -2, which a channel's weights lie along. The scales have the others, so they are
        sharded as those are.
    """
    values = parameter.get_value()
    make = partial(quantize, axis=axis)
    abstract = isinstance(values, jax.ShapeDtypeStruct)
    rounded, scale = jax.eval_shape(make, values) if abstract else make(values)
    axes = tuple(parameter.logical_axes)
    others = [own for index, own in enumerate(axes, -len(axes)) if index != axis]
    return (
        nnx.Param(rounded, logical_axes=axes),
        nnx.Param(scale, logical_axes=tuple(others)),
    )


def quantize(weights: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """Returns weights as int8 times a scale; the error is at most half a scale.

    Args:
      weights: an array of floats.
      axis: which the weights of one channel, with one scale, lie along.

    Returns:
      int8 of the same shape, and float32 scales without the axis.
    """
    wide = weights.astype(jnp.float32)
    scale = scale_of(jnp.abs(wide).max(axis))
    return jnp.rint(wide / jnp.expand_dims(scale, axis)).astype(jnp.int8), scale


def scale_of(largest: Any) -> Any:
    """Returns the scale of each channel, from its largest magnitude; arrays of NumPy or JAX."""
    # No division: compilers make one by a constant a product, which rounds otherwise.
    return largest * np.float32(1 / LARGEST) + (largest < _SMALLEST)
