"""Drawn inputs: which patches stay of a video, and the tokens of packed rows of text."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from stts_jax.budget import EXAMPLE_SUBSEGMENT_INCREMENT
from stts_jax.layers.attention_mask import TokenTable

# How much frames differ in how many of their tokens they keep: the deviation of their mean scores,
# where the scores of a frame's tokens are spread over 0 to 1.
SPREAD = 0.3
# Of parameters: no row repeats another, as the period is no multiple of a width.
_DEVIATION, _PERIOD = 0.02, 8191
M = TypeVar("M")


def drawn_patches(rows: int, frames: int, grid: int, pooling: int, dropped: float) -> np.ndarray:
    """Returns (rows, frames, N) bool, the patches that stay of frames that keep unequally many.

    The first frame of each row keeps all patches, and the second one none where as many go.

    Args:
      rows: of videos.
      frames: of each.
      grid: patches along a side of a frame.
      pooling: side of a pooling window.
      dropped: share of the pooled tokens that goes.
    """
    rng = np.random.default_rng(0)
    side = grid // pooling
    scores = rng.uniform(size=(rows, frames, side * side))
    scores += rng.normal(size=(rows, frames, 1)) * SPREAD
    scores[:, 0], scores[:, 1:2] = np.inf, -np.inf
    flat = scores.reshape(rows, -1)
    order = np.argsort(-flat, axis=1, kind="stable")
    keep = np.zeros(flat.shape, bool)
    np.put_along_axis(keep, order[:, : round((1 - dropped) * flat.shape[1])], True, axis=1)
    windows = keep.reshape(rows, frames, side, side)
    patches = windows.repeat(pooling, axis=2).repeat(pooling, axis=3)
    return patches.reshape(rows, frames, grid * grid)


def packed_tokens(tokens: int, visual: int, frames: int) -> TokenTable:
    """Returns the tokens (2, L) of a row of two packed examples and of one with padding.

    An example is a video, a question and two answers that don't see each other.

    Args:
      tokens: L.
      visual: visual tokens of a row.
      frames: of a row.
    """
    whole = _example(tokens // 2, visual // 2, frames // 2, 0)
    second = _example(tokens - tokens // 2, visual // 2, frames // 2, 1)
    packed = {name: np.concatenate([whole[name], second[name]]) for name in whole}
    padding = tokens // 16
    padded = _example(tokens - padding, visual, frames, 0)
    padded = {name: np.pad(column, (0, padding)) for name, column in padded.items()}
    columns = {name: jnp.asarray(np.stack([packed[name], padded[name]])) for name in packed}
    index = jnp.broadcast_to(jnp.arange(tokens, dtype=jnp.int32), (2, tokens))
    return TokenTable(index=index, **columns)


def video_tokens(tokens: int, visual: int, frames: int) -> TokenTable:
    """Returns the tokens (1, L) of a row of one video with text before and behind it."""
    columns = _example(tokens, visual, frames, 0)
    index = jnp.arange(tokens, dtype=jnp.int32)[None]
    return TokenTable(index=index, **{name: jnp.asarray(x)[None] for name, x in columns.items()})


def _example(tokens: int, visual: int, frames: int, number: int) -> dict[str, np.ndarray]:
    visual = min(visual, tokens // 2)
    is_visual = np.zeros(tokens, bool)
    text = tokens - visual
    start = text // 4
    is_visual[start : start + visual] = True
    frame = np.zeros(tokens, np.int32)
    frame[start : start + visual] = 1 + np.arange(visual) * max(frames, 1) // max(visual, 1)
    frame[start + visual :] = max(frames, 1)
    # A query sees a key only if its subsegment is at most the key's, so the later answer has the
    # larger one, and what all see the largest.
    subsegment = np.full(tokens, EXAMPLE_SUBSEGMENT_INCREMENT // 2, np.int32)
    answers = np.arange(tokens) - (tokens - text // 2)
    subsegment[answers >= 0] = 1
    subsegment[answers >= text // 4] = 2
    return {
        "valid": np.ones(tokens, bool),
        "visual": is_visual,
        "frame": frame,
        "subsegment": subsegment + number * EXAMPLE_SUBSEGMENT_INCREMENT,
    }


@partial(jax.jit, static_argnames=("shapes", "dtype"))
def _normal(key: jax.Array, shapes: tuple[tuple[int, ...], ...], dtype: str) -> Any:
    keys = jax.random.split(key, len(shapes))
    return tuple(
        jax.random.normal(key, shape, dtype) for key, shape in zip(keys, shapes, strict=True)
    )


def normal(seed: int, *shapes: tuple[int, ...], dtype: jnp.dtype) -> tuple[jax.Array, ...]:
    """Returns arrays of normal numbers, made on the device."""
    made: tuple[jax.Array, ...] = _normal(jax.random.key(seed), shapes, dtype.name)
    return made


def filled(make: Callable[[], M], dtype: jnp.dtype) -> M:
    """Returns a module of the shapes of `make()` with parameters that serve to time it.

    Initialisers take longer to compile than what is timed.
    """

    def fill(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        index = jnp.arange(leaf.size, dtype=jnp.int32).reshape(leaf.shape)
        return (_DEVIATION * jnp.sin((index % _PERIOD).astype(jnp.float32))).astype(dtype)

    shapes = jax.eval_shape(make)
    made: M = jax.jit(lambda: jax.tree.map(fill, shapes))()
    return made
