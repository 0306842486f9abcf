"""Feed-forward layers: GELU (ViT) and SwiGLU (projector, LLM)."""

from __future__ import annotations

import jax
from flax import nnx

from stts_jax.layers.linear import Linear
from stts_jax.layers.remat import rematerialized


class GeluMlp(nnx.Module):
    """Two biased layers with tanh-approximated GELU."""

    def __init__(self, width: int, hidden: int, *, key: jax.Array) -> None:
        up_key, down_key = jax.random.split(key)
        self.up = Linear(width, hidden, axes=("embed", "mlp"), key=up_key)
        self.down = Linear(hidden, width, axes=("mlp", "embed"), key=down_key)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the layer: (..., width) -> (..., width)."""
        return rematerialized(lambda x: self.down(jax.nn.gelu(x, approximate=True)))(self.up(x))


class SwiGluMlp(nnx.Module):
    """`down(silu(gate(x)) * up(x))`, no bias."""

    def __init__(self, inputs: int, hidden: int, outputs: int, *, key: jax.Array) -> None:
        gate_key, up_key, down_key = jax.random.split(key, 3)
        self.gate = Linear(inputs, hidden, axes=("embed", "mlp"), key=gate_key, bias=False)
        self.up = Linear(inputs, hidden, axes=("embed", "mlp"), key=up_key, bias=False)
        self.down = Linear(hidden, outputs, axes=("mlp", "embed"), key=down_key, bias=False)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the layer: (..., inputs) -> (..., outputs)."""
        return rematerialized(lambda gate, up: self.down(jax.nn.silu(gate) * up))(
            self.gate(x), self.up(x)
        )
