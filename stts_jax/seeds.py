"""Keys of seeds."""

from __future__ import annotations

import jax

_BITS = 32


def key_of_seed(seed: int) -> jax.Array:
    """Returns JAX's key of a seed of 0 to 2^63 - 1; `jax.random.key` looks at 32 bits only.

    Seeds below 2^32 have the keys that `jax.random.key` gives them.
    """
    key = jax.random.key(seed % 2**_BITS)
    high = seed >> _BITS
    return jax.random.fold_in(key, high) if high else key
