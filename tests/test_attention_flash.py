"""The flash kernels of TPUs and GPUs, interpreted, equal plain attention under an `IndexMask`."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from test_attention import check, draw, plain_attention
from test_attention_masks import token_mask

from stts_jax.attention import IndexMask, MaskSpec, TokenMaskIds, segment_mask
from stts_jax.attention.gpu import flash as gpu_flash
from stts_jax.attention.gpu.flash import block_lists
from stts_jax.attention.gpu.tiles import SIZE
from stts_jax.attention.requests import AttentionRequest
from stts_jax.attention.tpu import flash as tpu_flash

WIDTH = 72
# Worst seen are printed with the tests; bfloat16 has 8 bits.
FLOAT32, BFLOAT16 = 2e-5, 6e-2

both_kernels = pytest.mark.parametrize(
    "kernel", [tpu_flash.flash_attention, gpu_flash.flash_attention], ids=["tpu", "gpu"]
)


def check_mask(kernel, mask, shapes, seed, report_error, tolerance=FLOAT32, dtype=jnp.float32):
    """A kernel under a mask, interpreted: output and gradients are those of the mask's array."""
    return check(
        lambda *x: kernel(AttentionRequest(*x, mask), interpret=True),
        lambda *x: plain_attention(*x, mask.holds()),
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


def long_visual_ids(length):
    """Two rows of text with 150 and 40 visual tokens in them: some blocks have no hidden scores."""
    index = np.arange(length)
    visual = np.stack([(index >= 20) & (index < 170), (index >= 200) & (index < 240)])
    common = {"index": np.stack([index] * 2), "frame": np.where(visual, index // 70, 0)}
    queries = common | {"group": np.where(visual, 0, -1), "segment": np.zeros_like(visual, int)}
    keys = common | {"group": np.where(visual, 0, -2), "segment": visual * 10_000}
    sides = ({k: jnp.asarray(x, jnp.int32) for k, x in side.items()} for side in (queries, keys))
    return [TokenMaskIds(**side) for side in sides]


MASKS = {
    "causal and mutual": MaskSpec(causal=True, mutual=True, segments="from"),
    "mutual up to the frame": MaskSpec(causal=True, mutual=True, framed=True, segments="from"),
    "from a segment": MaskSpec(segments="from"),
}


@both_kernels
@pytest.mark.parametrize("spec", MASKS.values(), ids=MASKS)
def test_blocks_without_a_mask_and_heads_that_share_keys(kernel, spec, report_error):
    length = 260
    mask = IndexMask(*long_visual_ids(length), spec)
    padded = mask.padded(2, length, length, SIZE)
    assert block_lists(padded, SIZE).unmasked.sum(1).min() > 0
    shapes = ((2, length, 4, 16), (2, length, 2, 16), (2, length, 2, 16))
    check_mask(kernel, mask, shapes, 15, report_error)


@both_kernels
def test_the_mask_in_the_kernel_in_bfloat16_stays_near_the_float32_form(kernel, report_error):
    mask = IndexMask(*long_visual_ids(260), MASKS["causal and mutual"])
    shapes = ((2, 260, 4, 16), (2, 260, 2, 16), (2, 260, 2, 16))
    check_mask(kernel, mask, shapes, 17, report_error, BFLOAT16, jnp.bfloat16)


@both_kernels
def test_bins_whose_segments_are_in_no_order(kernel, report_error):
    """As `first_fit` packs them: frames in any order, several in a bin, and padding."""
    ids = jnp.asarray(np.repeat([3, 1, 7, 1, -1], [70, 80, 64, 16, 30])[None], jnp.int32)
    shape = (1, 260, 2, WIDTH)
    arrays, (weights,) = draw(19, shape, shape, shape), draw(20, shape)
    check(
        lambda *x: kernel(AttentionRequest(*x, segment_ids=ids), interpret=True),
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
    mask = IndexMask(
        TokenMaskIds(index=jnp.concatenate([index, index + 50])),
        TokenMaskIds(index=jnp.broadcast_to(jnp.arange(keys, dtype=jnp.int32), (2, keys))),
        MaskSpec(causal=True),
    )
    shapes = ((2, queries, 2, WIDTH), (2, keys, 2, WIDTH), (2, keys, 2, WIDTH))
    out, gradients = check_mask(kernel, mask, shapes, 13, report_error)
    assert (np.asarray(out)[0, :3] == 0).all() and (np.asarray(gradients[0])[0, :3] == 0).all()
