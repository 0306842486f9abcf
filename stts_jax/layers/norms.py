"""Layer norm and RMS norm; statistics in float32, result in the dtype of the input."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx import initializers

from stts_jax.layers.remat import rematerialized
from stts_jax.parallel.parameters import parameter


class LayerNorm(nnx.Module):
    """Layer norm with scale and bias."""

    def __init__(self, width: int, epsilon: float, *, key: jax.Array) -> None:
        self.epsilon = epsilon
        self.scale = parameter(initializers.ones_init(), key, (width,), ("norm",))
        self.bias = parameter(initializers.zeros_init(), key, (width,), ("norm",))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the layer: (..., width) -> (..., width)."""
        return rematerialized(self._normed)(x)

    def _normed(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        centred = wide - wide.mean(-1, keepdims=True)
        variance = jnp.square(centred).mean(-1, keepdims=True)
        normed = centred * jax.lax.rsqrt(variance + self.epsilon)
        return (normed * self.scale[...] + self.bias[...]).astype(x.dtype)


class RmsNorm(nnx.Module):
    """RMS norm with scale; cast back before the scale, as weights were trained.

    Source: docs/reference.md#language-models.
    """

    def __init__(self, width: int, epsilon: float, *, key: jax.Array) -> None:
        self.epsilon = epsilon
        self.scale = parameter(initializers.ones_init(), key, (width,), ("norm",))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the layer: (..., width) -> (..., width)."""
        return rematerialized(self._normed)(x)

    def _normed(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        mean_square = jnp.square(wide).mean(-1, keepdims=True)
        normed = (wide * jax.lax.rsqrt(mean_square + self.epsilon)).astype(x.dtype)
        return normed * self.scale[...].astype(x.dtype)
