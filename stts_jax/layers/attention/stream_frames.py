"""Attention within the segments of a stream, each segment laid out in a frame of its own.

Kernels for ragged frames know where a frame ends and visit nothing behind that; the only price is
to move each token there and back, which is little beside a block of the ViT.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from stts_jax.layers.compact import take_rows

# Of (F, N, H, d) queries, keys and values and (F,) lengths; makes (F, N, H, d).
FrameAttention = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]


def frames_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment_ids: jax.Array,
    *,
    segments: int,
    places: int,
    attend: FrameAttention,
) -> jax.Array:
    """As `stream_attention`.

    Args:
      query, key, value, segment_ids: see there.
      segments: ids are below this.
      places: N, no fewer than any segment's.
      attend: does it, finite everywhere and 0 or of no meaning behind a frame's length.
    """
    rows = segment_ids.shape[0]
    source, place, counts = frame_layout(segment_ids, segments, places)

    def frames(x: jax.Array) -> jax.Array:
        return _move(x, source, place).reshape(rows * segments, places, *x.shape[2:])

    out = attend(frames(query), frames(key), frames(value), counts.reshape(-1))
    return _move(out.reshape(rows, segments * places, *out.shape[2:]), place, source)


def frame_layout(
    segment_ids: jax.Array, segments: int, places: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Where each token of a stream goes, and comes from.

    Args:
      segment_ids: (B, S), see `stream_attention`.
      segments: T, ids are below this.
      places: N of a frame.

    Returns:
      source (B, T * N) int32, index into the stream, S at empty places.
      place (B, S) int32, index into the frames, T * N for padding.
      counts (B, T) int32, tokens of each segment.
    """
    rows, length = segment_ids.shape
    ids = jnp.where(segment_ids >= 0, segment_ids, segments)
    starts = segment_starts(segment_ids, segments)
    counts = starts[:, 1:] - starts[:, :-1]
    rank = jnp.arange(places)
    source = starts[:, :-1, None] + rank
    source = jnp.where(rank < counts[..., None], source, length).reshape(rows, -1)
    own_start = jnp.take_along_axis(starts, ids, axis=1)
    place = ids * places + jnp.arange(length) - own_start
    place = jnp.where(segment_ids >= 0, place, segments * places)
    return source.astype(jnp.int32), place.astype(jnp.int32), counts


def segment_starts(segment_ids: jax.Array, segments: int) -> jax.Array:
    """(B, T + 1) int32, where each segment of a stream starts, and the padding.

    Args:
      segment_ids: (B, S), see `stream_attention`.
      segments: T, ids are below this.
    """
    ids = jnp.where(segment_ids >= 0, segment_ids, segments)
    # Ids don't fall, so where a segment starts is how many ids are below it.
    return (ids[:, None, :] < jnp.arange(segments + 1)[:, None]).sum(-1, dtype=jnp.int32)


@jax.custom_vjp
def _move(x: jax.Array, source: jax.Array, place: jax.Array) -> jax.Array:
    """`x[b, source[b]]`, 0 where out of range; `place` leads back, so no gradient is scattered."""
    return take_rows(x, source)


def _move_forward(x: jax.Array, source: jax.Array, place: jax.Array) -> tuple[jax.Array, object]:
    return _move(x, source, place), (source, place)


def _move_backward(kept: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[object, ...]:
    source, place = kept
    return _move(gradient, place, source), None, None


_move.defvjp(_move_forward, _move_backward)
