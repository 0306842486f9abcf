"""What the kernels' bodies share."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def product(x: jax.Array, y: jax.Array, over: tuple[int, int]) -> jax.Array:
    """Of two matrices, summed over dimension `over[0]` of x and `over[1]` of y, in float32."""
    dimensions = (((over[0],), (over[1],)), ((), ()))
    # Products of halves are exact in float32; Mosaic refuses to be asked for more than that.
    precision = jax.lax.Precision.DEFAULT if x.dtype.itemsize < 4 else None
    return jax.lax.dot_general(
        x, y, dimensions, precision=precision, preferred_element_type=jnp.float32
    )
