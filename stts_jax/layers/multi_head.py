"""The four biased projections around an attention, as ViT, scorer and connector use them."""

from __future__ import annotations

from collections.abc import Callable

import jax
from flax import nnx

from stts_jax.layers.linear import Linear

Attend = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


class MultiHeadAttention(nnx.Module):
    """Projects to queries, keys and values, attends, projects back."""

    def __init__(
        self, inputs: int, outputs: int, heads: int, head_dim: int, *, key: jax.Array
    ) -> None:
        self.heads = heads
        keys = jax.random.split(key, 4)
        inner = heads * head_dim
        self.query = Linear(inputs, inner, axes=("embed", "heads"), key=keys[0])
        self.key = Linear(inputs, inner, axes=("embed", "heads"), key=keys[1])
        self.value = Linear(inputs, inner, axes=("embed", "heads"), key=keys[2])
        self.output = Linear(inner, outputs, axes=("heads", "embed"), key=keys[3])

    def __call__(self, queries: jax.Array, keys: jax.Array, attend: Attend) -> jax.Array:
        """Attends from `queries` (..., Lq, inputs) to `keys` (..., Lk, inputs).

        Args:
          queries: inputs of the query projection.
          keys: inputs of the key and value projections; `queries` for self-attention.
          attend: maps (..., Lq, H, d), (..., Lk, H, d), (..., Lk, H, d) to (..., Lq, H, d).

        Returns:
          (..., Lq, outputs).
        """

        def split(x: jax.Array) -> jax.Array:
            return x.reshape(*x.shape[:-1], self.heads, -1)

        out = attend(split(self.query(queries)), split(self.key(keys)), split(self.value(keys)))
        return self.output(out.reshape(*out.shape[:-2], -1))
