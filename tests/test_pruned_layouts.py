"""Compaction, cells of patches, bins of first fit, streams and attention within them."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference_cases import worst

from stts_jax.attention import stream_attention
from stts_jax.attention.xla.stream import DENSE_STREAM_SEGMENTS
from stts_jax.layers.gather import static_nonzero, take_rows
from stts_jax.pruning.first_fit import bin_bound, first_fit_layout
from stts_jax.pruning.pooling_windows import to_patches, to_windows
from stts_jax.pruning.stream import stream_layout

# Worst seen: attention 1e-7, its gradients 3e-7.
ATTENTION = 2e-6

# --------------------------------------------------------------------------- compaction and cells


def test_static_nonzero_lists_true_entries_in_order():
    mask = jnp.array([[0, 1, 1, 0, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], bool)
    indices, inverse = static_nonzero(mask, 4)
    assert indices.tolist() == [[1, 2, 4, 5], [5, 5, 5, 5], [0, 1, 2, 3]]
    assert inverse.tolist() == [[-1, 0, 1, -1, 2], [-1] * 5, [0, 1, 2, 3, -1]]


def test_take_rows_fills_in_for_indices_out_of_range():
    x = jnp.arange(6.0).reshape(2, 3)
    indices = jnp.array([[[0, -1], [3, 2]], [[2, 7], [-9, 1]]])
    taken = take_rows(x, indices, fill=-5)
    assert taken.tolist() == [[[0, -5], [-5, 2]], [[5, -5], [-5, 4]]]


def test_taking_by_the_inverse_index_undoes_static_nonzero():
    values = jnp.asarray(np.random.default_rng(0).uniform(size=(3, 72)))
    mask = values > 0.5
    indices, inverse = static_nonzero(mask, 72)
    back = take_rows(take_rows(values, indices), inverse)
    assert (back == jnp.where(mask, values, 0)).all()


def test_cells_hold_their_square_of_patches():
    cells = np.asarray(to_windows(jnp.arange(36)[:, None], 2))[..., 0]
    square = np.arange(36).reshape(6, 6)
    for cell, patches in enumerate(cells):
        i, j = divmod(cell, 3)
        assert (patches == square[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].ravel()).all()


@pytest.mark.parametrize(("grid", "pooling"), [(9, 3), (6, 2), (7, 3), (8, 3), (5, 2)])
def test_patches_get_the_value_of_the_cell_they_are_in(grid, pooling):
    count = (-(-grid // pooling)) ** 2
    values = to_patches(jnp.arange(1, count + 1), grid, pooling)
    cells = np.asarray(to_windows(values[:, None], pooling))[..., 0]
    number = np.arange(1, count + 1)[:, None]
    assert ((cells == number) | (cells == 0)).all()  # 0 where a cell sticks out of the grid
    assert (cells > 0).sum() == grid * grid


# ----------------------------------------------------------------------------------- first fit


def random_masks(count: int) -> np.ndarray:
    """(count, 2, 5, 9) masks of every density, of empty and of full frames."""
    rng = np.random.default_rng(3)
    density = rng.choice([0.0, 0.1, 0.4, 0.55, 0.6, 0.9, 1.0], (count, 2, 5, 1))
    return rng.uniform(size=(count, 2, 5, 9)) < density


def test_bins_of_first_fit_never_exceed_their_bound():
    masks = random_masks(2000)
    layout = jax.jit(jax.vmap(partial(first_fit_layout, sizes=(10,))))(masks)
    per_row = masks.sum((2, 3)).max(1)  # a budget that just holds the fuller row
    bounds = [bin_bound(2, 5, int(patches), 9) for patches in per_row]
    used = np.asarray(layout.used_bins)
    assert (used <= bounds).all()
    assert (used == bounds).any()


def test_each_kept_patch_has_a_place_of_its_own_beside_patches_of_its_frame():
    masks = random_masks(300)
    layout = jax.jit(jax.vmap(partial(first_fit_layout, sizes=(10,))))(masks)
    slot = np.asarray(layout.slot).reshape(300, -1)
    source = np.asarray(layout.source).reshape(300, -1)
    ids = np.asarray(layout.segment_ids).reshape(300, -1)
    for mask, slots, sources, segment in zip(masks, slot, source, ids, strict=True):
        held = np.flatnonzero(mask.ravel())
        assert (np.flatnonzero(slots >= 0) == held).all()
        assert (sources[slots[held]] == held).all()
        assert (segment[slots[held]] == held // 9).all()


def test_lone_frames_alone_are_refilled():
    masks = random_masks(300)
    layout = jax.jit(jax.vmap(partial(first_fit_layout, sizes=(10,))))(masks)
    for case, mask in enumerate(masks):
        ids = np.asarray(layout.segment_ids[case])
        lone = {bin_ids.max() for bin_ids in ids if len(set(bin_ids[bin_ids >= 0])) == 1}
        refilled = np.asarray(layout.refilled[case]).reshape(10, 9)
        for frame, kept_patches in enumerate(mask.reshape(10, 9)):
            expected = ~kept_patches if frame in lone else np.zeros(9, bool)
            assert (refilled[frame] == expected).all()


def test_a_stream_holds_the_kept_patches_in_order():
    mask = random_masks(20)[:, 0]
    layout = jax.jit(partial(stream_layout, size=45))(mask)
    for case, keep in enumerate(mask):
        held = np.flatnonzero(keep.ravel())
        source, ids = np.asarray(layout.source[case]), np.asarray(layout.segment_ids[case])
        assert (source[: len(held)] == held).all() and (source[len(held) :] == 45).all()
        assert (ids[: len(held)] == held // 9).all() and (ids[len(held) :] == -1).all()


# -------------------------------------------------------------------------- attention of streams

LONGEST = 3
LENGTHS = {
    "dense": DENSE_STREAM_SEGMENTS * LONGEST,
    "blocked": DENSE_STREAM_SEGMENTS * LONGEST + 5,  # and no whole number of blocks
}


def segments(length: int, padding: int, seed: int) -> np.ndarray:
    """Segments of 0 to `LONGEST` tokens in order, then padding."""
    lengths = np.random.default_rng(seed).integers(0, LONGEST + 1, length)
    ids = np.repeat(np.arange(length), lengths)[: length - padding]
    return np.concatenate([ids, np.full(length - len(ids), -1)]).astype(np.int32)


def masked_attention(query, key, value, ids):
    """One dense product over the whole stream, of the plainest kind."""
    mask = (ids[:, :, None] == ids[:, None, :]) & (ids[:, :, None] >= 0)
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / np.sqrt(query.shape[-1])
    weights = jax.nn.softmax(jnp.where(mask[:, None], scores, -1e30), axis=-1)
    return jnp.einsum("bhqk,bkhd->bqhd", jnp.where(mask[:, None], weights, 0.0), value)


@pytest.mark.parametrize("branch", LENGTHS)
def test_attention_of_a_stream_is_dense_attention_within_segments(branch, report_error):
    length = LENGTHS[branch]
    ids = np.stack([segments(length, p, seed) for seed, p in enumerate((0, 4, length))])
    assert np.unique(ids[0], return_counts=True)[1].max() == LONGEST
    draw = np.random.default_rng(1).normal(size=(4, 3, length, 2, 4)).astype(np.float32)
    *arrays, weights = jnp.asarray(draw)

    def compare(attend):
        @jax.jit
        @partial(jax.value_and_grad, has_aux=True)
        def run(arrays):
            out = attend(*arrays)
            return (out * weights).sum(), out

        return run(arrays)

    (_, ours), our_gradients = compare(
        lambda q, k, v: stream_attention(q, k, v, ids, longest_segment=LONGEST, segments=length)
    )
    (_, theirs), gradients = compare(lambda q, k, v: masked_attention(q, k, v, ids))
    assert (np.asarray(ours)[ids < 0] == 0).all()
    error = worst(ours, theirs)
    report_error("stream attention", error, ATTENTION)
    gradient_error = max(map(worst, our_gradients, gradients))
    report_error("gradients of stream attention", gradient_error, ATTENTION)
    assert max(error, gradient_error) <= ATTENTION
