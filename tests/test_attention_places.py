"""The kernels of masks made of numbers, interpreted: equal to plain attention, on TPUs and GPUs."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from test_attention import check, draw, plain_attention

from stts_jax.layers.attention.masks import PlaceMask, Places, Rule, segment_mask
from stts_jax.layers.attention.place_blocks import (
    block_lists,
    block_tables,
    needed_blocks,
    padded_mask,
    whole_blocks,
)
from stts_jax.layers.attention.place_kernel import place_attention
from stts_jax.layers.attention.place_triton import place_triton
from stts_jax.layers.attention.request import Request
from stts_jax.layers.attention.triton_tiles import SIZE

WIDTH = 72
# Worst seen are printed with the tests; bfloat16 has 8 bits.
FLOAT32, BFLOAT16 = 2e-5, 6e-2

both_kernels = pytest.mark.parametrize(
    "kernel", [place_attention, place_triton], ids=["tpu", "gpu"]
)


def token_places(length: int, seed: int) -> Places:
    """Runs of text and of frames of two examples, then padding."""
    rng = np.random.default_rng(seed)
    index = np.arange(length)
    visual = (index // 23) % 3 == 1
    second = index >= length // 2
    segment = second * 100000 + np.where(visual, 10000, rng.integers(0, 2, length))
    segment = np.where(index >= length - 40, -1, segment)
    places = {"index": index, "group": np.where(visual, second, -1), "frame": index // 9}
    return Places(
        **{name: jnp.asarray(x, jnp.int32)[None] for name, x in places.items()},
        segment=jnp.asarray(segment, jnp.int32)[None],
    )


def token_mask(length: int, **rule) -> PlaceMask:
    places = token_places(length, 0)
    queries = dataclasses.replace(places, segment=jnp.maximum(places.segment, 0))
    keys = dataclasses.replace(places, group=jnp.where(places.group < 0, -2, places.group))
    return PlaceMask(queries, keys, Rule(causal=True, segments="from", **rule))


def check_mask(kernel, mask, shapes, seed, report_error, tolerance=FLOAT32, dtype=jnp.float32):
    """A kernel under a mask, interpreted: output and gradients are those of the mask's array."""
    return check(
        lambda *x: kernel(Request(*x, mask), interpret=True),
        lambda *x: plain_attention(*x, mask.array()),
        draw(seed, *shapes, dtype=dtype),
        *draw(seed + 1, shapes[0]),
        report_error,
        tolerance,
        tolerance,
    )


@both_kernels
@pytest.mark.parametrize("framed", [False, True], ids=["image_tokens", "within_image"])
def test_the_language_models_mask_in_the_kernel_equals_its_array(kernel, framed, report_error):
    length = 300
    shapes = ((1, length, 4, 16), (1, length, 2, 16), (1, length, 2, 16))
    mask = token_mask(length, mutual=True, framed=framed)
    check_mask(kernel, mask, shapes, 11, report_error)


def long_visual_mask(length):
    """Two rows of text with 150 and 40 visual tokens in them: some blocks are seen whole."""
    index = np.arange(length)
    visual = np.stack([(index >= 20) & (index < 170), (index >= 200) & (index < 240)])
    common = {"index": np.stack([index] * 2), "frame": np.where(visual, index // 70, 0)}
    queries = common | {"group": np.where(visual, 0, -1), "segment": np.zeros_like(visual, int)}
    keys = common | {"group": np.where(visual, 0, -2), "segment": visual * 10_000}
    places = ({k: jnp.asarray(x, jnp.int32) for k, x in side.items()} for side in (queries, keys))
    return [Places(**side) for side in places]


MASKS = {
    "causal and mutual": Rule(causal=True, mutual=True, segments="from"),
    "mutual up to the frame": Rule(causal=True, mutual=True, framed=True, segments="from"),
    "from a segment": Rule(segments="from"),
}


@both_kernels
@pytest.mark.parametrize("rule", MASKS.values(), ids=MASKS)
def test_blocks_without_a_mask_and_heads_that_share_keys(kernel, rule, report_error):
    length = 260
    mask = PlaceMask(*long_visual_mask(length), rule)
    padded = padded_mask(mask, 2, length, length, SIZE)
    assert block_lists(padded, SIZE).whole.sum(1).min() > 0
    shapes = ((2, length, 4, 16), (2, length, 2, 16), (2, length, 2, 16))
    check_mask(kernel, mask, shapes, 15, report_error)


@both_kernels
def test_the_mask_in_the_kernel_in_bfloat16_stays_near_the_float32_form(kernel, report_error):
    mask = PlaceMask(*long_visual_mask(260), MASKS["causal and mutual"])
    shapes = ((2, 260, 4, 16), (2, 260, 2, 16), (2, 260, 2, 16))
    check_mask(kernel, mask, shapes, 17, report_error, BFLOAT16, jnp.bfloat16)


@both_kernels
def test_bins_whose_segments_are_in_no_order(kernel, report_error):
    """As `first_fit` packs them: frames in any order, filled up with others, and padding."""
    ids = jnp.asarray(np.repeat([3, 1, 7, 1, -1], [70, 80, 64, 16, 30])[None], jnp.int32)
    shape = (1, 260, 2, WIDTH)
    arrays, (weights,) = draw(19, shape, shape, shape), draw(20, shape)
    check(
        lambda *x: kernel(Request(*x, segment_ids=ids), interpret=True),
        lambda *x: plain_attention(*x, segment_mask(ids, ids)),
        arrays,
        weights,
        report_error,
        FLOAT32,
        FLOAT32,
    )


@both_kernels
def test_more_keys_than_queries_and_a_query_that_sees_nothing(kernel, report_error):
    """As when prompts are prefilled into a cache, some behind padding."""
    queries, keys = 130, 200
    index = jnp.arange(queries, dtype=jnp.int32)[None] - 3
    mask = PlaceMask(
        Places(index=jnp.concatenate([index, index + 50])),
        Places(index=jnp.broadcast_to(jnp.arange(keys, dtype=jnp.int32), (2, keys))),
        Rule(causal=True),
    )
    shapes = ((2, queries, 2, WIDTH), (2, keys, 2, WIDTH), (2, keys, 2, WIDTH))
    out, gradients = check_mask(kernel, mask, shapes, 13, report_error)
    assert (np.asarray(out)[0, :3] == 0).all() and (np.asarray(gradients[0])[0, :3] == 0).all()


# ---------------------------------------------------- which blocks are visited


@pytest.mark.parametrize("rule", [{}, {"mutual": True}, {"mutual": True, "framed": True}])
def test_no_block_that_somebody_sees_is_left_out(rule):
    mask, size = token_mask(480, **rule), 16
    seen = np.asarray(mask.array())[0].reshape(30, size, 30, size).any((1, 3))
    needed = np.asarray(needed_blocks(mask, size))[0]
    assert (needed >= seen).all()
    assert needed.mean() < 0.75 and (rule or needed.sum() < 1.1 * seen.sum())


def test_blocks_that_are_left_out_are_not_fetched():
    tables = block_tables(token_mask(480), 16)
    needed, fetched = np.asarray(tables.needed[0]), np.asarray(tables.fetched[0])
    changes = (np.diff(fetched, axis=1) != 0).sum()
    assert changes <= needed.sum()
    assert (fetched[needed == 1] == np.nonzero(needed)[1]).all()


@pytest.mark.parametrize("rule", [{}, {"mutual": True}, {"mutual": True, "framed": True}])
def test_blocks_without_a_mask_are_those_where_all_see_all(rule):
    mask, size = token_mask(480, **rule), 16
    pairs = np.asarray(mask.array())[0].reshape(30, size, 30, size)
    whole = np.asarray(whole_blocks(mask, size))[0]
    assert pairs.all((1, 3))[whole].all()
    assert whole.sum() > 0.5 * pairs.all((1, 3)).sum()


@pytest.mark.parametrize("of_keys", [False, True])
def test_a_list_has_the_needed_blocks_once_and_those_without_a_mask_first(of_keys):
    mask, size = token_mask(480, mutual=True), 16
    lists = block_lists(mask, size, of_keys=of_keys)
    needed, whole = (np.asarray(x(mask, size))[0] for x in (needed_blocks, whole_blocks))
    if of_keys:
        needed, whole = needed.T, whole.T
    for block, order in enumerate(np.asarray(lists.order[0])):
        first, count = int(lists.whole[0, block]), int(lists.needed[0, block])
        assert sorted(order[:first]) == list(np.flatnonzero(whole[block]))
        assert sorted(order[:count]) == list(np.flatnonzero(needed[block]))
