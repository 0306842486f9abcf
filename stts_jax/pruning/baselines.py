"""The paper's baselines: `heuristic`, `easy` and `random` ratings of tokens.

The reference's versions crash (MODEL 3.6). These do what they were meant to, with the budget of
each video as in the scorer path, and with retries that start afresh (the reference's start from
what the try before had pruned, so that every retry drops k more).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from stts_jax.pruning.cells import to_cells
from stts_jax.pruning.frames import FrameTable
from stts_jax.pruning.selection import select

# A protected token is rated like one that has nothing in common with its reference.
PROTECTED = 1.0
TRIES = 5
THRESHOLD_STEP = 0.05


def random_ratings(shape: tuple[int, ...], key: jax.Array) -> jax.Array:
    """Uniform ratings; first frames are not protected (as in the reference)."""
    return jax.random.uniform(key, shape)


def easy_ratings(x: jax.Array, frames: FrameTable, pooling: int, threshold: float) -> jax.Array:
    """Rate tokens by how little they resemble the same place of the frame before.

    A frame whose mean similarity is below the threshold is protected as a whole.

    Args:
      x: (B, T, N, D) inputs of block 0.
      frames: the rows' frames.
      pooling: patches along a side of a cell.
      threshold: mean similarity under which a frame is protected.

    Returns:
      (B, T, P) ratings: minus the similarity, or `PROTECTED`.
    """
    cells = _unit_cells(x, pooling)
    previous = jnp.pad(cells, ((0, 0), (1, 0), (0, 0), (0, 0)))[:, :-1]
    similarity = (cells * previous).sum(-1)
    tries = _thresholds(threshold)
    protected = similarity.mean(-1) < tries[:, None, None]
    protected = (protected | frames.first)[..., None]
    return _first_good_try(jnp.where(protected, PROTECTED, -similarity), frames, tries)


def heuristic_ratings(
    x: jax.Array, frames: FrameTable, pooling: int, threshold: float
) -> jax.Array:
    """Rate tokens by how little they resemble the last different content of their place.

    Every place of the grid keeps a reference token, at first that of the video's first frame. A
    frame whose mean similarity to the references is below the threshold is protected and becomes
    the reference; otherwise only the places that fall below it renew theirs.

    Args and result as in `easy_ratings`.
    """
    cells = _unit_cells(x, pooling)
    tries = _thresholds(threshold)

    def walk(limit: jax.Array) -> jax.Array:
        def step(
            reference: jax.Array, frame: tuple[jax.Array, jax.Array]
        ) -> tuple[jax.Array, jax.Array]:
            cell, first = frame
            similarity = (cell * reference).sum(-1)
            protected = (similarity.mean(-1, keepdims=True) < limit) | first[:, None]
            renew = protected | (similarity < limit)
            rating = jnp.where(protected, PROTECTED, -similarity)
            return jnp.where(renew[..., None], cell, reference), rating

        over_time = (jnp.moveaxis(cells, 1, 0), jnp.moveaxis(frames.first, 1, 0))
        _, ratings = jax.lax.scan(step, jnp.zeros_like(cells[:, 0]), over_time)
        return jnp.moveaxis(ratings, 0, 1)

    return _first_good_try(jax.lax.map(walk, tries), frames, tries)


def _unit_cells(x: jax.Array, pooling: int) -> jax.Array:
    """(B, T, N, D) -> (B, T, P, w * w * D), each cell's patches side by side, length 1."""
    cells = to_cells(jax.lax.stop_gradient(x).astype(jnp.float32), pooling)
    cells = cells.reshape(*cells.shape[:-2], -1)
    return cells / jnp.maximum(jnp.linalg.norm(cells, axis=-1, keepdims=True), 1e-12)


def _thresholds(threshold: float) -> jax.Array:
    return threshold - THRESHOLD_STEP * jnp.arange(TRIES)


def _first_good_try(ratings: jax.Array, frames: FrameTable, tries: jax.Array) -> jax.Array:
    """Per example, the ratings of the first try that drops no protected token, else of the last.

    Args:
      ratings: (tries, B, T, P).
      frames: the rows' frames.
      tries: (tries,) thresholds; one below 0 is not tried.
    """
    kept = jax.vmap(lambda rating: select(rating, frames))(ratings)
    bad_frames = (~kept & frames.real[..., None] & (ratings == PROTECTED)).any(-1)
    member = jax.nn.one_hot(frames.example, frames.start.shape[1], dtype=bool, axis=1)
    bad = (bad_frames[:, :, None] & member).any(-1)
    allowed = (jnp.arange(TRIES) == 0) | (tries >= 0)
    good = ~bad & allowed[:, None, None]
    last = jnp.maximum(allowed.sum() - 1, 0)
    chosen = jnp.where(good.any(0), jnp.argmax(good, axis=0), last)
    chosen = jnp.take_along_axis(chosen, frames.example, axis=1)
    return jnp.take_along_axis(ratings, chosen[None, :, :, None], axis=0)[0]
