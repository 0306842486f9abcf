"""Baseline `tome`, Token Merging: the most similar tokens of a frame are averaged.

Bipartite soft matching: of a frame's tokens, in order, every other one belongs to set A, the rest
to set B. Each of A is matched with the most similar one of B, and the most similar pairs are
merged. One round merges half of the tokens at most; where more must go, the next matches what is
left.

Source: arXiv 2210.09461, section 3; facebookresearch/ToMe, tome/merge.py, `bipartite_soft_matching`
and `merge_wavg`. In the paper's table 5 ToMe merges within the ViT, and the LLM gets the pooled
result (appendix C). Differences here: the tokens are pooling windows, patch by patch, so that ViT
and LLM lose the same ones; they are matched by the outputs of block l, not by the keys of its
attention; all merging takes place after block l, not r tokens in every block; and attention to a
merged token doesn't count how many it stands for ("proportional attention"). Each frame loses as
many tokens, as each picture does there, first frames too.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from stts_jax.pruning.baselines.inputs import BaselineInputs
from stts_jax.pruning.pooling_windows import to_windows


def scores(inputs: BaselineInputs) -> Float[Array, "B T P"]:
    """Returns (B, T, P) scores: the order in which a frame's tokens merge, in [0, 1)."""
    rank, _ = _matching(inputs)
    return rank.astype(jnp.float32) / rank.shape[-1]


def targets(inputs: BaselineInputs) -> Int[Array, "B T P"]:
    """Returns (B, T, P) int32, the window that each one merges into; of the last one itself."""
    return _matching(inputs)[1]


def _matching(inputs: BaselineInputs) -> tuple[jax.Array, jax.Array]:
    """Returns (B, T, P) int32 each: the order of merging, and the windows merged into."""
    windows = to_windows(jax.lax.stop_gradient(inputs.hidden).astype(jnp.float32), inputs.pooling)
    windows = windows.reshape(*windows.shape[:-2], -1)
    products = jnp.einsum("...pc,...qc->...pq", windows, windows, precision="highest")
    return match(products)


def match(
    products: Float[Array, "*batch P P"],
) -> tuple[Int[Array, "*batch P"], Int[Array, "*batch P"]]:
    """Matches tokens round by round until one is left.

    Args:
      products: (..., P, P), the scalar product of each two tokens.

    Returns:
      rank (..., P) int32, the order in which tokens merge, from 0; that of the last one is P - 1.
      target (..., P) int32, the token that each one merges into, of a higher rank; of the last one
        itself.
    """
    *batch, count, _ = products.shape
    own = jnp.broadcast_to(jnp.arange(count, dtype=jnp.int32), (*batch, count))
    rank, target = jnp.full_like(own, count - 1), own
    # Each token that is left is the sum of some of the first ones; a cosine needs no mean.
    left, members = own, jnp.broadcast_to(jnp.eye(count), products.shape)
    merged_before = 0
    while (size := left.shape[-1]) > 1:
        a, b = left[..., ::2], left[..., 1::2]
        best, nearest = _nearest(members, products)
        order = _descending_rank(best)
        goes = order < size // 2
        target = _put(target, a, jnp.where(goes, jnp.take_along_axis(b, nearest, -1), a))
        rank = _put(rank, a, jnp.where(goes, merged_before + order, count - 1))
        left, members = _merge(left, members, nearest, order)
        merged_before += size // 2
    return rank, target


def _nearest(members: jax.Array, products: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the cosine of each token of A with the most similar one of B, and its index there."""
    dot = jnp.einsum("...np,...pq->...nq", members, products, precision="highest")
    norm = jnp.sqrt(jnp.maximum((dot * members).sum(-1), 1e-24))
    unit, kept = dot / norm[..., None], members / norm[..., None]
    cosine = jnp.einsum(
        "...aq,...bq->...ab", unit[..., ::2, :], kept[..., 1::2, :], precision="highest"
    )
    return cosine.max(-1), cosine.argmax(-1).astype(jnp.int32)


def _merge(
    left: jax.Array, members: jax.Array, nearest: jax.Array, order: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Merges A into B; the least similar one of A stays in front if A has one more than B."""
    b, size = left[..., 1::2], left.shape[-1]
    goes = order < size // 2
    into = goes[..., None] & (nearest[..., None] == jnp.arange(b.shape[-1]))
    merged = members[..., 1::2, :] + jnp.einsum(
        "...ab,...ap->...bp", into.astype(members.dtype), members[..., ::2, :], precision="highest"
    )
    if size % 2 == 0:
        return b, merged
    index = jnp.where(goes, 0, left[..., ::2]).sum(-1, keepdims=True)
    own = jnp.where(goes[..., None], 0, members[..., ::2, :]).sum(-2, keepdims=True)
    return jnp.concatenate([index, b], -1), jnp.concatenate([own, merged], -2)


def _descending_rank(x: jax.Array) -> jax.Array:
    """Returns how many entries come before each one in descending order: (..., n) int32.

    Entries are counted, not sorted: there are at most half a frame's tokens.
    """
    index = jnp.arange(x.shape[-1])
    equal_before = (x[..., None, :] == x[..., None]) & (index < index[:, None])
    return ((x[..., None, :] > x[..., None]) | equal_before).sum(-1, dtype=jnp.int32)


def _put(x: jax.Array, index: jax.Array, values: jax.Array) -> jax.Array:
    return jnp.put_along_axis(x, index, values, axis=-1, inplace=False)
