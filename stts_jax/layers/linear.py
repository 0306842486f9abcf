"""Dense layer."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx import initializers

from stts_jax.parallel.mesh import on_one_device
from stts_jax.parallel.parameters import Initializer, parameter, truncated_normal


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
        """Applies the layer: (..., inputs) -> (..., outputs)."""
        # With batch dimensions merged, the kernel's gradient is a plain matrix product, which needs
        # no transposed copy of its operand. Merging sharded dimensions would move data.
        rows = x.reshape(-1, x.shape[-1]) if on_one_device() else x
        y = jnp.dot(rows, self.kernel[...].astype(x.dtype)).reshape(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)
