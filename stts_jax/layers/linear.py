"""Dense layer."""

from __future__ import annotations

from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx import initializers

from stts_jax.parallel.mesh import on_one_device
from stts_jax.parallel.parameters import Initializer, parameter, truncated_normal

M = TypeVar("M", bound=nnx.Module)


class Linear(nnx.Module):
    """`x @ kernel + bias`, computed in the dtype of `x`.

    The kernel is (in, out): the transpose of what torch stores.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        axes: tuple[str | None, str | None],
        key: jax.Array,
        bias: bool = True,
        initializer: Initializer | None = None,
    ) -> None:
        initializer = initializer or truncated_normal(inputs**-0.5)
        self.kernel = parameter(initializer, key, (inputs, outputs), axes)
        self.bias = (
            parameter(initializers.zeros_init(), key, (outputs,), axes[1:]) if bias else None
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., inputs) -> (..., outputs)."""
        # The gradient of the kernel takes a transposed operand, which XLA copies on a CPU if it has
        # leading dimensions. Merging them where several devices hold parts would move those.
        rows = x.reshape(-1, x.shape[-1]) if on_one_device() else x
        y = jnp.dot(rows, self.kernel[...].astype(x.dtype)).reshape(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)


class TurnedLinear(nnx.Module):
    """A `Linear` for the few tokens of a decoding step on a CPU, with its kernel as (out, in).

    Without AVX-512, XLA multiplies such a kernel with a few columns at the pace of memory, and a
    few rows with an (in, out) kernel at half of it. The barriers keep it from making the latter of
    the former.
    """

    def __init__(self, linear: Linear) -> None:
        self.kernel = nnx.Param(linear.kernel[...].T)
        self.bias = linear.bias

    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., inputs) -> (..., outputs)."""
        columns = jax.lax.optimization_barrier(x.reshape(-1, x.shape[-1]).T)
        y = jax.lax.optimization_barrier(jnp.dot(self.kernel[...].astype(x.dtype), columns))
        y = y.T.reshape(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)


def turned(module: M) -> M:
    """The same module with a `TurnedLinear` in the place of every `Linear`."""
    copy = jax.tree.map(lambda leaf: leaf, module)
    for name, part in list(vars(copy).items()):
        if isinstance(part, Linear):
            setattr(copy, name, TurnedLinear(part))
        elif isinstance(part, nnx.Module):
            setattr(copy, name, turned(part))
    return copy
