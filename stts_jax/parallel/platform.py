"""Choices that depend on the platform that computes: dtype of activations, padding of rows."""

from __future__ import annotations

import jax
import jax.numpy as jnp

# Rows of a tile in a TPU's memory.
TOKEN_TILE = 128


def compute_dtype(name: str) -> jnp.dtype:
    """Returns the dtype of activations; `auto` is float32 on a CPU and bfloat16 elsewhere."""
    if name == "auto":
        return jnp.dtype(jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16)
    return jnp.dtype(name)


def row_length(tokens: int) -> int:
    """Returns L, the length of a row in the LLM: on a TPU whole tiles, for rows of many tiles.

    Otherwise a TPU transposes heads in memory before and after each attention.
    """
    if jax.default_backend() != "tpu" or tokens < 8 * TOKEN_TILE:
        return tokens
    return -(-tokens // TOKEN_TILE) * TOKEN_TILE


def rows_of_product(rows: int) -> int:
    """Returns the rows to multiply with a matrix of weights, zeros among them: on a TPU 2 for 1.

    Its compiler multiplies a single row on the vector unit, in some four times as many cycles by
    its own estimates.
    """
    return 2 if rows == 1 and jax.default_backend() == "tpu" else rows
