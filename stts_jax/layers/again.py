"""What is made again in the backward pass because it is cheaper to make than to keep."""

from __future__ import annotations

from functools import partial

import jax

# Norms and activations: their derivatives would keep several arrays as large as what they are
# given, which are written in the forward pass and read in the backward pass, where their own
# arithmetic is next to nothing. A scan keeps the two passes apart, so no barrier is needed.
again = partial(jax.checkpoint, prevent_cse=False)
