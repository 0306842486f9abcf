"""Functions that the backward pass recomputes, which is cheaper than keeping their results."""

from __future__ import annotations

from functools import partial

import jax

# For norms and activations: their derivatives would keep several arrays as large as the input,
# which the forward pass writes and the backward pass reads, beside which their arithmetic is next
# to nothing. A scan keeps the two passes apart, so CSE need not be prevented.
rematerialised = partial(jax.checkpoint, prevent_cse=False)
