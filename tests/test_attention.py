"""Attention against the plainest float32 form, forward and gradient; what a stream visits."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from stts_jax.attention import IndexMask, MaskSpec, TokenMaskIds, attention, segment_mask
from stts_jax.attention.requests import StreamRequest
from stts_jax.attention.xla.blockwise import BlockPlan, block_plan, blockwise_attention
from stts_jax.attention.xla.stream import (
    neighbour_attention,
    segment_attention,
    segment_ends,
    segment_sizes,
)
from stts_jax.parallel.mesh import BATCH_AXES, make_mesh

# Worst seen: 5e-7 forward, 3e-6 gradients (of sums over 12 queries and more, of size 5).
FORWARD, GRADIENT = 2e-6, 1e-5
# bfloat16 has 8 bits; worst seen beside a float32 reference: 1.2e-2.
HALF = 4e-2


def plain_attention(query, key, value, mask=None, key_bias=None):
    """All scores at once, in float32; heads of keys repeated."""
    query, key, value = (x.astype(jnp.float32) for x in (query, key, value))
    repeats = query.shape[-2] // key.shape[-2]
    key, value = (jnp.repeat(x, repeats, axis=-2) for x in (key, value))
    scores = jnp.einsum("...qhd,...khd->...hqk", query, key) / np.sqrt(query.shape[-1])
    if key_bias is not None:
        scores = scores + key_bias[..., None, None, :]
    if mask is None:
        return jnp.einsum("...hqk,...khd->...qhd", jax.nn.softmax(scores), value)
    allowed = jnp.broadcast_to(mask[..., None, :, :], scores.shape)
    weights = jnp.where(allowed, jax.nn.softmax(jnp.where(allowed, scores, -1e30)), 0.0)
    return jnp.einsum("...hqk,...khd->...qhd", weights, value)


def draw(seed, *shapes, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def outputs_and_gradients(attend, arrays, weights):
    """The output, and the gradients of its weighted sum by every array."""

    @jax.jit
    def run(arrays):
        def total(arrays):
            out = attend(*arrays)
            return (out.astype(jnp.float32) * weights).sum(), out

        return jax.value_and_grad(total, has_aux=True)(arrays)

    (_, out), gradients = run(tuple(arrays))
    return out, gradients


def worst(ours, theirs) -> float:
    # Not with jax, whose largest value of a few numbers may pass over NaN.
    difference = np.asarray(ours, np.float32) - np.asarray(theirs, np.float32)
    return float(np.nan_to_num(np.abs(difference), nan=np.inf).max())


def check(ours, theirs, arrays, weights, report_error, forward=FORWARD, gradient=GRADIENT):
    out, gradients = outputs_and_gradients(ours, arrays, weights)
    expected, expected_gradients = outputs_and_gradients(theirs, arrays, weights)
    error = worst(out, expected)
    gradient_error = max(map(worst, gradients, expected_gradients))
    report_error("attention", error, forward)
    report_error("gradients of attention", gradient_error, gradient)
    assert error <= forward
    assert gradient_error <= gradient
    return out, gradients


def check_segments(kernel, ids, report_error, tolerance, heads=2, width=72):
    """A kernel of streams of these segments: equal to plain attention, and 0 at padding."""
    shape = (*ids.shape, heads, width)
    out, gradients = check(
        lambda *x: kernel(*x, ids),
        lambda *x: plain_attention(*x, segment_mask(ids, ids)),
        draw(7, shape, shape, shape),
        *draw(8, shape),
        report_error,
        tolerance,
        tolerance,
    )
    padding = np.asarray(ids) < 0
    assert all((np.asarray(x)[padding] == 0).all() for x in (out, *gradients))


# ------------------------------------------------------------------------------ blocks of scores

BATCH, LENGTH, KEYS, HEADS, KEY_HEADS, WIDTH = (2, 3), 12, 10, 4, 2, 8
SHAPES = (
    (*BATCH, LENGTH, HEADS, WIDTH),
    (*BATCH, KEYS, KEY_HEADS, WIDTH),
    (*BATCH, KEYS, KEY_HEADS, WIDTH),
)
PLANS = {
    "at once": BlockPlan(6, 2, 1),
    "batch in pairs": BlockPlan(2, 2, 1),
    "head by head": BlockPlan(1, 1, 1),
    "blocks that do not divide": BlockPlan(1, 1, 5),
    "all of the batch, in blocks": BlockPlan(6, 2, 3),
}


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_blocks_with_mask_and_bias_equal_the_plain_form(plan, report_error):
    *arrays, bias = draw(0, *SHAPES, (*BATCH, KEYS))
    (weights,) = draw(1, SHAPES[0])
    mask = jnp.asarray(np.random.default_rng(2).random((*BATCH, LENGTH, KEYS)) < 0.6)
    mask = mask.at[0, 0, 3].set(False)  # sees no key
    out, gradients = check(
        lambda q, k, v, b: blockwise_attention(q, k, v, mask=mask, key_bias=b, plan=plan),
        lambda q, k, v, b: plain_attention(q, k, v, mask, b),
        [*arrays, bias],
        weights,
        report_error,
    )
    assert (out[0, 0, 3] == 0).all()
    assert (gradients[0][0, 0, 3] == 0).all()


@pytest.mark.parametrize("plan", [PLANS["head by head"], PLANS["all of the batch, in blocks"]])
def test_one_mask_for_all_queries_is_spread(plan, report_error):
    arrays, (weights,) = draw(3, *SHAPES), draw(4, SHAPES[0])
    mask = jnp.asarray(np.random.default_rng(5).random((*BATCH, 1, KEYS)) < 0.6)
    check(
        lambda *x: blockwise_attention(*x, mask=mask, plan=plan),
        lambda *x: plain_attention(*x, mask),
        arrays,
        weights,
        report_error,
    )


SPECS = {
    "causal": MaskSpec(causal=True),
    "segments": MaskSpec(segments="same"),
    "causal and mutual": MaskSpec(causal=True, mutual=True, segments="from"),
    "mutual up to the frame": MaskSpec(causal=True, mutual=True, framed=True, segments="from"),
}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_a_mask_made_block_by_block_equals_its_array(spec, report_error):
    rng = np.random.default_rng(13)
    queries, keys = (
        TokenMaskIds(
            index=jnp.arange(n),
            **{
                name: jnp.asarray(rng.integers(-1, 2, (*BATCH, n)), jnp.int32)
                for name in ("group", "frame", "segment")
            },
        )
        for n in (LENGTH, KEYS)
    )
    mask = IndexMask(queries, keys, spec)
    arrays, (weights,) = draw(14, *SHAPES), draw(15, SHAPES[0])
    check(
        lambda *x: blockwise_attention(*x, mask=mask, plan=PLANS["blocks that do not divide"]),
        lambda *x: plain_attention(*x, mask.holds()),
        arrays,
        weights,
        report_error,
    )


def test_blocks_in_bfloat16_stay_near_the_float32_form(report_error):
    arrays, (weights,) = draw(6, *SHAPES, dtype=jnp.bfloat16), draw(7, SHAPES[0])
    check(
        lambda *x: blockwise_attention(*x, plan=PLANS["head by head"]),
        plain_attention,
        arrays,
        weights,
        report_error,
        HALF,
        HALF,
    )


@pytest.mark.parametrize("length", [8, 256], ids=["few scores", "many scores"])
def test_attention_equals_the_plain_form(length, report_error):
    shape = (1, 3, length, 3, 8)
    arrays, (bias, weights) = draw(8, shape, shape, shape), draw(9, shape[:3], shape)
    check(
        lambda q, k, v, b: attention(q, k, v, key_bias=b),
        lambda q, k, v, b: plain_attention(q, k, v, None, b),
        [*arrays, bias],
        weights,
        report_error,
    )


def test_no_array_of_all_scores_is_kept_or_made():
    """The compiler allocates far less for the gradient than one float of each score."""
    heads, length = 8, 1024
    shape = jax.ShapeDtypeStruct((1, 4, length, heads, 16), jnp.float32)
    gradient = jax.jit(jax.grad(lambda q, k, v: attention(q, k, v).sum(), argnums=(0, 1, 2)))
    memory = gradient.lower(shape, shape, shape).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 4 * heads * length**2 * 4 / 4


def test_a_mask_is_recomputed_in_every_layer_and_never_whole():
    """The compiler allocates less for layers in a loop than one byte of each score."""
    heads, length, width = 4, 1024, 16
    ids = TokenMaskIds(index=jnp.arange(length)[None])
    mask = IndexMask(ids, ids, MaskSpec(causal=True))

    def layer(x, kernel):
        q = (x @ kernel).reshape(1, length, heads, -1)
        out = blockwise_attention(q, q, q, mask=mask, plan=BlockPlan(1, heads, 64))
        return x + out.reshape(x.shape), None

    def loss(kernels, x):
        return jax.lax.scan(jax.checkpoint(layer, prevent_cse=False), x, kernels)[0].sum()

    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((3, width, width), (1, length, width))]
    memory = jax.jit(jax.grad(loss)).lower(*shapes).compile().memory_analysis()
    assert memory.temp_size_in_bytes < heads * length**2


@pytest.mark.parametrize(
    ("batch", "heads", "queries", "platform", "plan"),
    [
        pytest.param(16, 6, 729, "cpu", BlockPlan(1, 1, 1), id="a frame and head fit the cache"),
        pytest.param(128, 3, 64, "cpu", BlockPlan(64, 3, 1), id="small frames go together"),
        pytest.param(1, 4, 2048, "cpu", BlockPlan(1, 1, 4), id="long rows are cut"),
        pytest.param(16, 16, 729, "tpu", BlockPlan(16, 16, 1), id="a tpu takes all"),
        pytest.param(1, 32, 8192, "tpu", BlockPlan(1, 32, 8), id="but not without end"),
        pytest.param(512, 16, 729, "tpu", BlockPlan(64, 16, 3), id="nor so many frames"),
    ],
)
def test_plan(batch, heads, queries, platform, plan):
    assert block_plan(batch, heads, queries, queries**2, platform) == plan


# -------------------------------------------------------------------------------------- on a mesh


@pytest.mark.parametrize("shape", [{"data": 2, "tensor": 2}, {"fsdp": 4}, {"data": 4, "tensor": 2}])
def test_devices_attend_for_their_own_rows_and_heads(shape, report_error):
    """4 rows and 2 heads of keys, with a mask, a bias and gradients."""
    mesh = make_mesh(shape, jax.devices()[: math.prod(shape.values())])
    arrays = draw(16, (4, LENGTH, 4, 8), (4, LENGTH, 2, 8), (4, LENGTH, 2, 8), (4, LENGTH))
    (weights,) = draw(17, (4, LENGTH, 4, 8))
    ids = jnp.asarray(np.random.default_rng(18).integers(0, 2, (4, LENGTH)), jnp.int32)

    def ours(query, key, value, bias):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return attention(query, key, value, key_bias=bias, segment_ids=ids)

    sharded = [jax.device_put(x, NamedSharding(mesh, PartitionSpec(BATCH_AXES))) for x in arrays]
    out, gradients = outputs_and_gradients(ours, sharded, weights)
    expected, expected_gradients = outputs_and_gradients(
        lambda q, k, v, b: plain_attention(q, k, v, segment_mask(ids, ids), b), arrays, weights
    )
    error = max(worst(out, expected), *map(worst, gradients, expected_gradients))
    report_error("attention on a mesh", error, GRADIENT)
    assert error <= GRADIENT


# ----------------------------------------------------------------------------- segments of a stream

LONGEST = 7


def stream_ids(length: int, padding: int, seed: int, longest: int = LONGEST) -> np.ndarray:
    """Segments of 0 to `longest` tokens in order, then padding."""
    lengths = np.random.default_rng(seed).integers(0, longest + 1, length)
    ids = np.repeat(np.arange(length), lengths)[: length - padding]
    return np.concatenate([ids, np.full(length - len(ids), -1)]).astype(np.int32)


def stream_request(query, key, value, ids) -> StreamRequest:
    return StreamRequest(query, key, value, ids, LONGEST, segments=ids.shape[1])


@pytest.mark.parametrize("form", [segment_attention, neighbour_attention])
def test_attention_of_a_stream_stays_within_segments(form, report_error):
    length = 40
    ids = np.stack([stream_ids(length, p, seed) for seed, p in enumerate((0, 9, length))])
    shape = (3, length, 2, 4)
    arrays, (weights,) = draw(10, shape, shape, shape), draw(11, shape)
    out, gradients = check(
        lambda *x: form(stream_request(*x, ids)),
        lambda *x: plain_attention(*x, segment_mask(ids, ids)),
        arrays,
        weights,
        report_error,
    )
    assert (np.asarray(out)[ids < 0] == 0).all()
    assert all((np.asarray(gradient)[ids < 0] == 0).all() for gradient in gradients)


@pytest.mark.parametrize("form", [segment_attention, neighbour_attention])
def test_gradients_of_segments_of_no_static_size_are_their_own(form, report_error):
    counts, longest = (64, 13, 0, 30, 57), 64
    assert not {13, 30, 57} & {*segment_sizes(longest)}
    ids = np.repeat([0, 1, 2, 3, 4, -1], [*counts, 6]).astype(np.int32)[None]
    shape = (1, ids.shape[1], 1, 4)
    arrays, (weights,) = draw(26, shape, shape, shape), draw(27, shape)
    check(
        lambda *x: form(StreamRequest(*x, jnp.asarray(ids), longest, segments=5)),
        lambda *x: plain_attention(*x, segment_mask(ids, ids)),
        arrays,
        weights,
        report_error,
    )


def test_numbers_at_padding_do_not_matter():
    ids = stream_ids(30, 6, 0)[None]
    arrays = draw(12, *[(1, 30, 1, 4)] * 3)
    spoilt = [jnp.where((ids < 0)[..., None, None], 1e4, x) for x in arrays]
    run = jax.jit(lambda *x: segment_attention(stream_request(*x)))
    np.testing.assert_array_equal(run(*arrays, ids), run(*spoilt, ids))


def test_padding_between_segments_is_skipped(report_error):
    ids = jnp.asarray([[-1, -1, 0, 0, 0, -1, 2, 2, -1, 3, -1, -1]], jnp.int32)
    shape = (1, 12, 1, 4)
    arrays, (weights,) = draw(19, shape, shape, shape), draw(20, shape)
    check(
        lambda *x: segment_attention(stream_request(*x, ids)),
        lambda *x: plain_attention(*x, segment_mask(ids, ids)),
        arrays,
        weights,
        report_error,
    )


def test_ends_of_segments():
    ids = np.array([[0, 0, 3, 4, 4, 4, -1], [-1] * 7], np.int32)
    np.testing.assert_array_equal(segment_ends(ids), [[2, 2, 3, 6, 6, 6, 0], [0] * 7])


@dataclass(frozen=True)
class Selection:
    """How selections are drawn: the share dropped, the frames, and how much frames differ."""

    ratio: float
    frames: int
    spread: float

    def kept(self, seed: int) -> np.ndarray:
        """Kept patches of each frame of 729, whole pooling windows; the first frame is complete."""
        patches, windows = 729, 81
        scores = np.random.default_rng(seed).random((self.frames, windows))
        scores[0] = 2.0
        # Frames differ in how much of them is worth keeping.
        more = np.random.default_rng(seed + 100).normal(0, self.spread, (self.frames - 1, 1))
        scores[1:] += more
        cut = np.sort(scores, axis=None)[int(self.ratio * self.frames * windows)]
        return (scores >= cut).sum(-1) * (patches // windows)


every_selection = pytest.mark.parametrize(
    "selection",
    [
        Selection(*drawn)
        for drawn in itertools.product((0.3, 0.5, 0.7), (16, 64, 384), (0, 0.05, 0.1, 0.3, 1))
    ],
    ids=lambda drawn: f"{drawn.ratio:.0%} of {drawn.frames} frames, spread {drawn.spread}",
)


def visited_scores(lengths: np.ndarray, longest: int) -> int:
    """Scores that `segment_attention` computes for segments of these lengths, of each head."""
    sizes = np.asarray(segment_sizes(longest))
    present = lengths[lengths > 0]
    return int((sizes[np.searchsorted(sizes, present)] ** 2).sum())


def check_scores(visited, selection: Selection, what: str, report_error) -> None:
    """`visited` scores of (T,) patches are at most half above the ideal, in each of five draws."""
    for seed in range(5):
        kept = selection.kept(seed)
        waste = visited(kept) / (kept**2).sum()
        report_error(f"{what} over ideal, {selection.ratio:.0%}", waste, 1.5)
        assert 1.0 <= waste <= 1.5


@every_selection
def test_scores_made_are_at_most_half_above_the_ideal(selection, report_error):
    check_scores(partial(visited_scores, longest=729), selection, "scores", report_error)


def test_sizes_end_with_the_longest_segment():
    assert segment_sizes(729)[-1] == 729
    assert segment_sizes(3) == (1, 2, 3)
