"""Attention within the segments of a stream, one segment after the other: the CPU's form.

A segment's length is known only at run time, so its scores are made in the smallest of a few
static sizes that it fits: the products stay large and dense, no other segment is visited, and a
softmax goes over its scores once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stts_jax.layers.attention.block import block_backward, block_forward
from stts_jax.layers.attention.masks import FORBIDDEN

# A finer ladder wastes fewer scores and takes longer to compile.
RUNGS = 16


def segment_sizes(longest: int) -> tuple[int, ...]:
    """The static sizes, evenly spaced up to that of the longest segment."""
    return tuple(sorted({-(-longest * (n + 1) // RUNGS) for n in range(RUNGS)}))


def visited_scores(lengths: np.ndarray, longest: int) -> int:
    """Scores that are made for segments of these lengths, of each head; the ideal is their squares.

    Args:
      lengths: tokens of each segment.
      longest: see `segment_attention`.
    """
    sizes = np.asarray(segment_sizes(longest))
    present = lengths[lengths > 0]
    return int((sizes[np.searchsorted(sizes, present)] ** 2).sum())


def segment_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment_ids: jax.Array,
    longest_segment: int,
) -> jax.Array:
    """As `stream_attention`, whatever the sizes."""
    length = query.shape[1]
    room = ((0, 0), (0, 0), (0, longest_segment), (0, 0))
    heads_first = (jnp.pad(jnp.moveaxis(x, 1, 2), room) for x in (query, key, value))
    out = _attend(*heads_first, segment_ends(segment_ids), segment_sizes(longest_segment))
    return jnp.moveaxis(out[:, :, :length], 2, 1)


def segment_ends(segment_ids: jax.Array) -> jax.Array:
    """(B, S) ids -> (B, S) int32, where the segment of each place ends; 0 at padding."""
    length = segment_ids.shape[1]
    last = segment_ids[:, 1:] != segment_ids[:, :-1]
    last = jnp.pad(last, ((0, 0), (0, 1)), constant_values=True)
    ends = jnp.where(last, jnp.arange(1, length + 1), length)
    ends = jax.lax.cummin(ends, axis=1, reverse=True)
    return jnp.where(segment_ids >= 0, ends, 0).astype(jnp.int32)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attend(
    query: jax.Array, key: jax.Array, value: jax.Array, ends: jax.Array, sizes: tuple[int, ...]
) -> jax.Array:
    """Attention of (B, H, S, d), with room for the longest segment behind the last one."""
    return _attend_forward(query, key, value, ends, sizes)[0]


def _attend_forward(
    query: jax.Array, key: jax.Array, value: jax.Array, ends: jax.Array, sizes: tuple[int, ...]
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    def attend(arrays: Any, bias: jax.Array) -> Any:
        out, log_total = block_forward(*arrays, bias, None)
        return out, log_total[:, None]

    like = (value, jnp.zeros((*query.shape[:3], 1), jnp.float32))
    out, log_total = _each_segment(attend, (query, key, value), like, ends, sizes)
    return out, (query, key, value, ends, out, log_total)


def _attend_backward(
    sizes: tuple[int, ...], kept: tuple[jax.Array, ...], gradient: jax.Array
) -> tuple[jax.Array | None, ...]:
    *inputs, ends, out, log_total = kept

    def attend(arrays: Any, bias: jax.Array) -> Any:
        query, key, value, out, log_total, gradient = arrays
        *gradients, _ = block_backward(
            query, key, value, bias, None, out, log_total[:, 0], gradient
        )
        return tuple(g.astype(x.dtype) for g, x in zip(gradients, arrays, strict=False))

    arrays = (*inputs, out, log_total, gradient)
    return *_each_segment(attend, arrays, inputs, ends, sizes), None


_attend.defvjp(_attend_forward, _attend_backward)


def _each_segment(
    function: Callable[[Any, jax.Array], Any],
    arrays: Any,
    like: Any,
    ends: jax.Array,
    sizes: tuple[int, ...],
) -> Any:
    """Apply a function to every segment of every row and head.

    Args:
      function: of arrays (n, ...) of one segment and a bias (1, n) that hides the keys behind its
        end; makes arrays (n, ...).
      arrays: (B, H, S, ...) each.
      like: arrays of the shapes and types of the results; places outside segments become 0.
      ends: (B, S), see `segment_ends`.
      sizes: static sizes n.
    """
    rows, heads = ends.shape[0], like[0].shape[1]

    def of_head(pair: tuple[jax.Array, Any]) -> Any:
        number, arrays = pair
        row_ends = ends[number // heads]
        stop = row_ends.max()

        def of_size(size: int, start: jax.Array, count: jax.Array) -> Any:
            segment = tuple(jax.lax.dynamic_slice_in_dim(x, start, size) for x in arrays)
            inside = jnp.arange(size) < count
            results = function(segment, jnp.where(inside, 0.0, FORBIDDEN)[None, :])
            # What lies behind the end is written again by the next segment, or stays 0.
            room = ((0, sizes[-1] - size), (0, 0))
            return tuple(jnp.pad(jnp.where(inside[:, None], x, 0), room) for x in results)

        def step(carry: tuple[jax.Array, Any]) -> tuple[jax.Array, Any]:
            start, done = carry
            count = row_ends[start] - start
            rung = jnp.searchsorted(jnp.array(sizes), count, method="compare_all")
            branches = [partial(of_size, size) for size in sizes]
            results = jax.lax.switch(rung, branches, start, count)
            done = tuple(
                jax.lax.dynamic_update_slice_in_dim(whole, part, start, 0)
                for whole, part in zip(done, results, strict=True)
            )
            # Padding that isn't at the end is passed by place by place.
            return start + jnp.maximum(count, 1), done

        empty = tuple(jnp.zeros(x.shape[2:], x.dtype) for x in like)
        first = (jnp.zeros((), row_ends.dtype), empty)
        return jax.lax.while_loop(lambda carry: carry[0] < stop, step, first)[1]

    flat = tuple(x.reshape(rows * heads, *x.shape[2:]) for x in arrays)
    results = jax.lax.map(of_head, (jnp.arange(rows * heads), flat))
    return tuple(x.reshape(rows, heads, *x.shape[1:]) for x in results)
