"""Merges adapters into the kernels of their base."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import numpy as np

from stts_jax.layers.lora import merged_kernel


def merge(kernel: jax.Array, adapter: tuple[Any, Any], scale: float) -> jax.Array:
    """Returns a kernel with its adapter in it: `W + scale * A B`, in the type of `W`.

    Args:
      kernel: (in, out) or (layers, in, out), sharded or not; it is given up.
      adapter: TensorStore's handles of `lora_a` and `lora_b`.
      scale: alpha / rank.
    """
    a, b = (np.asarray(part.read().result()) for part in adapter)
    return _merged(kernel.sharding, kernel.dtype.name, scale)(kernel, a, b)


def _merged(sharding: Any, dtype: str, scale: float) -> Any:
    return jax.jit(
        partial(merged_kernel, scale=scale, dtype=dtype), out_shardings=sharding, donate_argnums=0
    )
