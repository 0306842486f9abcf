"""The GPU kernels, interpreted: equal to plain attention, and no more work than there has to be."""

from __future__ import annotations

from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
from test_attention import (
    check,
    check_scores,
    check_segments,
    draw,
    every_selection,
    plain_attention,
)
from test_attention_backends import BFLOAT16, FLOAT32, WIDTH, token_mask

from stts_jax.layers.attention.masks import PlaceMask, Places, Rule, segment_mask
from stts_jax.layers.attention.place_blocks import (
    block_lists,
    needed_blocks,
    padded_mask,
    whole_blocks,
)
from stts_jax.layers.attention.place_triton import place_triton
from stts_jax.layers.attention.request import Request
from stts_jax.layers.attention.stream_triton import stream_triton, visited_scores
from stts_jax.layers.attention.triton_tiles import SIZE, tile_widths

# Longer than one block of queries, empty, and exactly a block of keys.
SEGMENTS = (150, 0, 64, 5)


@pytest.mark.parametrize(
    ("width", "tiles"),
    [
        (8, (16,)),
        (16, (16,)),
        (24, (32,)),
        (40, (32, 16)),
        (72, (64, 16)),
        (104, (64, 32, 16)),
        (128, (128,)),
    ],
)
def test_a_head_is_read_in_as_few_columns_as_tiles_can_have(width, tiles):
    assert tile_widths(width) == tiles


# ----------------------------------------------------------------------------------------- streams


def test_a_stream_in_the_kernel_equals_attention_within_segments(report_error):
    length = sum(SEGMENTS) + 20
    ids = np.concatenate([np.repeat(np.arange(4), SEGMENTS), np.full(20, -1)])
    full = np.repeat(np.arange(4), [100, 39, 0, 100])
    ids = jnp.asarray(np.stack([ids, np.full(length, -1), full]), jnp.int32)
    attend = partial(stream_triton, longest=150, segments=4, interpret=True)
    check_segments(attend, ids, report_error, FLOAT32)


def test_a_stream_in_the_kernel_in_bfloat16_stays_near_the_float32_form(report_error):
    shape, ids = (1, 130, 2, WIDTH), jnp.zeros((1, 130), jnp.int32)
    arrays, (weights,) = draw(9, shape, shape, shape, dtype=jnp.bfloat16), draw(10, shape)
    check(
        lambda *x: stream_triton(*x, ids, longest=130, segments=1, interpret=True),
        plain_attention,
        arrays,
        weights,
        report_error,
        BFLOAT16,
        BFLOAT16,
    )


@every_selection
def test_the_kernel_visits_at_most_half_more_scores_than_the_ideal(selection, report_error):
    check_scores(visited_scores, selection, "GPU kernel's scores", report_error)


# ------------------------------------------------------------------------------- masks of numbers


@pytest.mark.parametrize("framed", [False, True], ids=["image_tokens", "within_image"])
def test_the_language_models_mask_in_the_kernel_equals_its_array(framed, report_error):
    length = 300
    shapes = ((1, length, 4, 16), (1, length, 2, 16), (1, length, 2, 16))
    mask = token_mask(length, mutual=True, framed=framed)
    arrays, (weights,) = draw(11, *shapes), draw(12, shapes[0])
    check(
        lambda *x: place_triton(Request(*x, mask), interpret=True),
        lambda *x: plain_attention(*x, mask.array()),
        arrays,
        weights,
        report_error,
        FLOAT32,
        FLOAT32,
    )


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


@pytest.mark.parametrize("rule", MASKS.values(), ids=MASKS)
def test_blocks_without_a_mask_and_heads_that_share_keys(rule, report_error):
    length = 260
    mask = PlaceMask(*long_visual_mask(length), rule)
    padded = padded_mask(mask, 2, length, length, SIZE)
    assert block_lists(padded, SIZE).whole.sum(1).min() > 0
    shapes = ((2, length, 4, 16), (2, length, 2, 16), (2, length, 2, 16))
    arrays, (weights,) = draw(15, *shapes), draw(16, shapes[0])
    check(
        lambda *x: place_triton(Request(*x, mask), interpret=True),
        lambda *x: plain_attention(*x, mask.array()),
        arrays,
        weights,
        report_error,
        FLOAT32,
        FLOAT32,
    )


def test_the_mask_in_the_kernel_in_bfloat16_stays_near_the_float32_form(report_error):
    mask = PlaceMask(*long_visual_mask(260), MASKS["causal and mutual"])
    shapes = ((2, 260, 4, 16), (2, 260, 2, 16), (2, 260, 2, 16))
    arrays, (weights,) = draw(17, *shapes, dtype=jnp.bfloat16), draw(18, shapes[0])
    check(
        lambda *x: place_triton(Request(*x, mask), interpret=True),
        lambda *x: plain_attention(*x, mask.array()),
        arrays,
        weights,
        report_error,
        BFLOAT16,
        BFLOAT16,
    )


def test_bins_whose_segments_are_in_no_order(report_error):
    """As `first_fit` packs them: frames in any order, filled up with others, and padding."""
    ids = jnp.asarray(np.repeat([3, 1, 7, 1, -1], [70, 80, 64, 16, 30])[None], jnp.int32)
    shape = (1, 260, 2, WIDTH)
    arrays, (weights,) = draw(19, shape, shape, shape), draw(20, shape)
    check(
        lambda *x: place_triton(Request(*x, segment_ids=ids), interpret=True),
        lambda *x: plain_attention(*x, segment_mask(ids, ids)),
        arrays,
        weights,
        report_error,
        FLOAT32,
        FLOAT32,
    )


def test_more_keys_than_queries_and_a_query_that_sees_nothing(report_error):
    """As when prompts are prefilled into a cache, some behind padding."""
    queries, keys = 130, 200
    index = jnp.arange(queries, dtype=jnp.int32)[None] - 3
    mask = PlaceMask(
        Places(index=jnp.concatenate([index, index + 50])),
        Places(index=jnp.broadcast_to(jnp.arange(keys, dtype=jnp.int32), (2, keys))),
        Rule(causal=True),
    )
    shapes = ((2, queries, 2, WIDTH), (2, keys, 2, WIDTH), (2, keys, 2, WIDTH))
    arrays, (weights,) = draw(13, *shapes), draw(14, shapes[0])
    out, gradients = check(
        lambda *x: place_triton(Request(*x, mask), interpret=True),
        lambda *x: plain_attention(*x, mask.array()),
        arrays,
        weights,
        report_error,
        FLOAT32,
        FLOAT32,
    )
    assert (np.asarray(out)[0, :3] == 0).all() and (np.asarray(gradients[0])[0, :3] == 0).all()


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
