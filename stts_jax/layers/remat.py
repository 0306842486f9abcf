"""Rematerialisation of norms and activations."""

from __future__ import annotations

from functools import partial

import jax

# The backward pass recomputes a norm or an activation from its input. Their derivatives would
# store several arrays as large as that input, while the arithmetic costs next to nothing. A scan
# separates the forward pass from the backward pass, so no barrier against CSE is needed.
rematerialized = partial(jax.checkpoint, prevent_cse=False)
