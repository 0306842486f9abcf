"""Selection, log-score bias, temporal loss and the baselines."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from float32_encoding import encode
from model_cases import BUDGET, KEY, numpy_rows, rows, small_model, small_model_config
from random_batches import IMAGE, MULTI_IMAGE, TEXT, VIDEO

from stts_jax.budget import tokens_to_prune, video_budget
from stts_jax.config import ModelConfig, PruneConfig, VitConfig
from stts_jax.config.model import PruneMethod
from stts_jax.model import vision
from stts_jax.pruning.baselines import BaselineInputs, baseline_scores
from stts_jax.pruning.baselines.similarity import PROTECTED_SIMILARITY
from stts_jax.pruning.frames import FrameTable, frame_table
from stts_jax.pruning.layout import DenseLayout
from stts_jax.pruning.pooling_windows import to_windows
from stts_jax.pruning.score_bias import score_bias
from stts_jax.pruning.selection import protect_first_frames, select
from stts_jax.pruning.temporal_loss import temporal_loss

# Worst seen: 6e-8.
LOSS = 2e-6

P = 9  # tokens of a frame, 3 x 3
T = 8  # frames of a row
# Three rows: two videos and an image, then padding; images around a video; nothing.
COUNTS = np.array([[3, 1, 3, -1], [2, 1, 4, -1], [-1, -1, -1, -1]], np.int32)
KINDS = np.array(
    [[VIDEO, IMAGE, VIDEO, -1], [MULTI_IMAGE, IMAGE, VIDEO, -1], [-1, -1, -1, -1]], np.int32
)
SCORES = np.random.default_rng(0).uniform(size=(3, T, P)).astype(np.float32)


def prune(topk=0.5, **changes) -> PruneConfig:
    return PruneConfig(method="scorer", topk=topk, **changes)


@partial(jax.jit, static_argnums=2)
def _table(counts, kinds, config):
    return frame_table(counts, tokens_to_prune(counts, kinds, config, P), T)


HALF = prune()


def table(config=HALF, counts=COUNTS, kinds=KINDS) -> FrameTable:
    return _table(counts, kinds, config)


@jax.jit
def _kept(scores, frames):
    return select(protect_first_frames(scores, frames), frames)


_selected = jax.jit(select)


def kept(config=HALF, counts=COUNTS, kinds=KINDS, scores=SCORES):
    return np.asarray(_kept(scores, table(config, counts, kinds)))


def one_row(*videos: int) -> tuple[np.ndarray, np.ndarray]:
    """Counts and kinds of one row with these videos, and two rows of padding."""
    counts, kinds = np.full((2, 3, 4), -1, np.int32)
    counts[0, : len(videos)], kinds[0, : len(videos)] = videos, VIDEO
    return counts, kinds


def spans(counts):
    """(row, example, its frames) of all examples."""
    for row, row_counts in enumerate(counts):
        start = 0
        for example, count in enumerate(np.maximum(row_counts, 0)):
            yield row, example, slice(start, start + count)
            start += count


# ----------------------------------------------------------------------------------- selection


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(prune(0.0), id="0"),
        pytest.param(prune(0.3), id="30"),
        pytest.param(prune(0.5), id="50"),
        pytest.param(prune(0.99), id="99"),
        pytest.param(prune(0.5, prune_from_frame=1), id="from-frame-1"),
        pytest.param(prune(0.99, protect_first_frame=True), id="first-protected"),
    ],
)
def test_exactly_k_of_each_video_go_and_nothing_of_images(config):
    keep, k = kept(config), tokens_to_prune(COUNTS, KINDS, config, P)
    for row, example, span in spans(COUNTS):
        assert (~keep[row, span]).sum() == k[row, example], (row, example)
    assert (k[KINDS != VIDEO] == 0).all()


def test_padding_frames_keep_nothing():
    keep = kept()
    assert not keep[0, 7:].any() and not keep[1, 7:].any() and not keep[2].any()


def test_the_lowest_rated_go():
    keep, k = kept(), tokens_to_prune(COUNTS, KINDS, prune(), P)
    for row, example, span in spans(COUNTS):
        if k[row, example]:
            later, stays = SCORES[row, span][1:], keep[row, span][1:]
            assert later[~stays].max() < later[stays].min()


@pytest.mark.parametrize("topk", [0.3, 0.5, 0.66])
def test_first_frames_stay_whole_while_the_others_have_enough(topk):
    keep = kept(prune(topk))
    for row, example, span in spans(COUNTS):
        if COUNTS[row, example] > 2:  # then k <= P (n - 1)
            assert keep[row, span][0].all()


def test_first_frames_lose_only_what_the_others_do_not_have():
    keep = kept(prune(0.99), *one_row(5))
    assert (~keep[0, 1:5]).all()
    assert (~keep[0, 0]).sum() == 44 - 4 * P  # k = 8.91 * 5, cut


def test_of_equal_ratings_the_earlier_go_first():
    keep = kept(prune(0.5), *one_row(3, 4), scores=np.full_like(SCORES, 0.25))
    for span, k in ((slice(0, 3), 13), (slice(3, 7), 18)):
        expected = np.repeat([True, False, True], [P, k, (span.stop - span.start - 1) * P - k])
        assert (keep[0, span].ravel() == expected).all()


@pytest.mark.parametrize("seed", range(3))
def test_what_goes_is_the_front_of_a_stable_sort(seed):
    """Of any numbers: below 0, equal ones, zeros of both signs, infinite ones, none at all."""
    drawn = np.array([-np.inf, -2.5, -1e-30, -0.0, 0.0, 1e-30, 0.5, 3.0, np.inf, np.nan])
    scores = np.random.default_rng(seed).choice(drawn.astype(np.float32), SCORES.shape)
    keep = np.asarray(_selected(scores, table()))
    k = tokens_to_prune(COUNTS, KINDS, HALF, P)
    for row, example, span in spans(COUNTS):
        order = np.argsort(scores[row, span].ravel() + 0.0, kind="stable")
        expected = np.ones(order.size, bool)
        expected[order[: k[row, example]]] = False
        assert (keep[row, span].ravel() == expected).all(), (row, example)


def test_a_video_of_one_frame_loses_its_first_tokens():
    keep = kept(prune(0.5), *one_row(1))
    assert (keep[0, 0] == (np.arange(P) >= 4)).all()


def test_a_video_of_one_frame_stays_whole_where_first_frames_are_protected():
    assert kept(prune(0.5, protect_first_frame=True), *one_row(1))[0, 0].all()


def test_protected_first_frames_stay_whole_at_any_ratio():
    keep = kept(prune(0.99, protect_first_frame=True), *one_row(5))
    assert keep[0, 0].all() and not keep[0, 1:5].any()


def test_nothing_goes_at_ratio_0():
    assert kept(prune(0.0))[0, :7].all()
    assert not np.asarray(table(prune(0.0)).prunable).any()


def test_nothing_goes_where_there_is_no_video():
    keep = kept(prune(0.5), *(x[1:2].repeat(3, 0)[:, [0, 1, 3, 3]] for x in (COUNTS, KINDS)))
    assert keep[:, :3].all() and not keep[:, 3:].any()


def test_a_video_that_loses_no_whole_token_is_not_prunable():
    assert not np.asarray(table(prune(0.1), *one_row(1)).prunable).any()


def test_rows_do_not_see_each_other():
    order = [1, 2, 0]
    shuffled = kept(counts=COUNTS[order], kinds=KINDS[order], scores=SCORES[order])
    assert (shuffled == kept()[order]).all()


# --------------------------------------------------------------------- every method, in the ViT


@partial(jax.jit, static_argnums=2)
def _keep_of(model, batch, budget, key):
    config = model.config
    return encode(model.vit, model.scorer, batch, budget, config, key).plan.keep


def keep_of(method, seed=0, key=KEY, **options):
    topk = 0.0 if method == "none" else 0.5
    config = small_model_config(prune__method=method, prune__topk=topk)
    keep = _keep_of(small_model(config), rows(seed=seed, **options), BUDGET, key)
    return config, np.asarray(keep)


@pytest.mark.parametrize("method", get_args(PruneMethod))
@pytest.mark.parametrize("kinds", [None, (IMAGE, TEXT)], ids=["videos", "no-video"])
def test_every_method_keeps_what_the_budget_counts(method, kinds):
    options = {"empty_rows": 1} | ({"kinds": kinds} if kinds else {})
    config, keep = keep_of(method, **options)
    batch = numpy_rows(**options)
    counts, kinds = batch.num_images, batch.multimodal_type
    k = tokens_to_prune(counts, kinds, config.prune, P)
    assert (k.sum() > 0) == (VIDEO in kinds and method != "none")
    for row, example, span in spans(counts):
        assert (~keep[row, span]).sum() == k[row, example]
    assert keep.sum() == np.maximum(counts, 0).sum() * P - k.sum()


def test_random_differs_by_key_and_only_by_key():
    first, again = keep_of("random")[1], keep_of("random")[1]
    assert (first == again).all()
    assert (first != keep_of("random", key=jax.random.key(1))[1]).any()


# -------------------------------------------------------------------------------- log-score bias

MINIMUM = float(np.exp(-2.0))


def bias(scores=SCORES, grid=9):
    frames = table()
    scores = jnp.asarray(scores)
    return np.asarray(score_bias(scores, frames, grid=grid, pooling=3, minimum=MINIMUM))


def test_the_bias_is_zero_in_first_frames_and_whatever_is_not_pruned():
    frames = table()
    biased = np.asarray(frames.prunable & ~frames.first)
    assert biased.sum() == 2 + 2 + 3
    assert (bias()[~biased] == 0).all()
    assert (bias()[biased] < 0).any(-1).all()


def test_every_row_of_cells_is_stretched_from_the_minimum_to_one():
    frames = table()
    biased = np.asarray(frames.prunable & ~frames.first)
    cells = to_windows(jnp.asarray(bias())[..., None], 3)[..., 0]
    assert (cells == cells[..., :1]).all()  # all patches of a cell have its bias
    by_row = np.asarray(cells[..., 0]).reshape(3, T, 3, 3)[biased]
    np.testing.assert_allclose(by_row.min(-1), -2.0, atol=1e-6)
    assert (by_row <= 0).all()
    # Not quite 0: the range is divided by itself and 1e-6.
    np.testing.assert_allclose(by_row.max(-1), 0.0, atol=1e-3)


def test_the_bias_of_equal_scores_is_finite_and_within_its_range():
    flat = bias(np.full_like(SCORES, 0.5))
    assert np.isfinite(flat).all() and (flat >= -2.0 - 1e-6).all() and (flat <= 0).all()


def test_gradient_of_the_bias_is_finite_for_equal_scores():
    @jax.jit
    @jax.grad
    def gradient(scores, frames):
        return score_bias(scores, frames, grid=9, pooling=3, minimum=MINIMUM).sum()

    assert np.isfinite(gradient(jnp.full_like(SCORES, 0.5), table())).all()


# --------------------------------------------------------------------------------- temporal loss


def plain_temporal_loss(scores, x, prunable, coefficient):
    """The paper's sum over frames and tokens, one at a time."""
    total = count = 0.0
    for row in range(len(x)):
        for frame in range(1, x.shape[1]):
            if not prunable[row, frame]:
                continue
            for token in range(scores.shape[-1]):
                i, j = divmod(token, 3)
                now, before = (
                    x[row, t].reshape(9, 9, -1)[3 * i : 3 * i + 3, 3 * j : 3 * j + 3].ravel()
                    for t in (frame, frame - 1)
                )
                cosine = now @ before / (np.linalg.norm(now) * np.linalg.norm(before))
                total += (scores[row, frame, token] - (1 - cosine)) ** 2
                count += 1
    return coefficient * total / max(count, 1.0)


@partial(jax.jit, static_argnums=(3,))
def loss_and_gradients(scores, x, frames, coefficient):
    return jax.value_and_grad(
        lambda s, x: temporal_loss(s, x, frames, pooling=3, coefficient=coefficient), (0, 1)
    )(scores, x)


X = np.random.default_rng(2).normal(size=(3, T, 81, 4)).astype(np.float32)


def test_temporal_loss_is_a_mean_over_frames_that_are_pruned(report_error):
    """Two videos in a row: the first frame of the second is compared with what is before it."""
    frames = table()
    ours = float(loss_and_gradients(SCORES, X, frames, 0.5)[0])
    theirs = plain_temporal_loss(
        SCORES.astype(np.float64), X.astype(np.float64), np.asarray(frames.prunable), 0.5
    )
    error = abs(ours - theirs) / theirs
    report_error("temporal loss", error, LOSS)
    assert error <= LOSS


def test_temporal_loss_is_zero_where_nothing_is_pruned():
    loss, gradients = loss_and_gradients(SCORES, X, table(prune(0.0)), 0.5)
    assert float(loss) == 0 and not any(np.asarray(g).any() for g in gradients)


def test_temporal_loss_of_black_frames_has_finite_gradients():
    blank = X.copy()
    blank[:, 1:3] = 0
    loss, gradients = loss_and_gradients(SCORES, blank, table(), 0.5)
    assert np.isfinite(loss) and all(np.isfinite(g).all() for g in gradients)


def sizes_of_arrays(jaxpr):
    """Values in each array that a program makes, also inside of loops and calls."""
    for equation in jaxpr.eqns:
        yield from (variable.aval.size for variable in equation.outvars)
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "jaxpr")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from sizes_of_arrays(inner)


def test_temporal_loss_compares_neighbours_only():
    """No array, forward or backward, is larger than the patches: none is frames by frames."""
    frames, patches, width = 64, 9, 2
    scores = jnp.zeros((1, frames, 1))
    x = jnp.ones((1, frames, patches, width))
    one = frame_table(jnp.array([[frames]]), jnp.array([[frames // 2]]), frames)
    gradient = jax.grad(
        lambda s, x: temporal_loss(s, x, one, pooling=3, coefficient=0.5), argnums=(0, 1)
    )
    made = list(sizes_of_arrays(jax.make_jaxpr(gradient)(scores, x).jaxpr))
    assert max(made) == x.size < frames * frames


# ------------------------------------------------------------------------------------ baselines

BY_SIMILARITY = ("heuristic", "easy")


@partial(jax.jit, static_argnums=0)
def _rated(method, x, frames, threshold):
    scores = baseline_scores(method, BaselineInputs(x, frames, 3, threshold, jax.random.key(0), x))
    return scores, select(scores, frames)


def rated(method, angles, topk=0.5, threshold=0.85):
    """Ratings and kept tokens of a video; each frame or patch is a vector at an angle.

    So the similarity of two tokens of even angle is the cosine of the angle between them.
    """
    counts, kinds = one_row(len(angles))
    frames = table(prune(topk), counts, kinds)
    angles = np.reshape(angles, (len(angles), -1))
    x = np.zeros((3, T, 81, 2), np.float32)
    x[0, : len(angles)] = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    ratings, keep = _rated(method, x, frames, threshold)
    return np.asarray(ratings)[0, : len(angles)], np.asarray(keep)[0, : len(angles)]


@pytest.mark.parametrize("method", BY_SIMILARITY)
def test_a_frame_at_a_scene_cut_is_kept_whole(method):
    ratings, keep = rated(method, [0.0, 0.1, 0.2, 1.6, 1.7, 1.8])
    assert (ratings[[0, 3]] == PROTECTED_SIMILARITY).all()
    assert keep[[0, 3]].all() and (~keep).sum() == 27


@pytest.mark.parametrize("method", BY_SIMILARITY)
def test_what_resembles_its_reference_most_goes_first(method):
    _, keep = rated(method, [0.0, 0.02, 0.4, 0.5], topk=0.25)
    assert not keep[1].any() and keep[[0, 2, 3]].all()


def test_the_references_differ():
    """A slow drift: `easy` looks at the frame before, `heuristic` at the last that was new."""
    drift = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    easy, heuristic = (rated(method, drift, topk=0.1)[0] for method in ("easy", "heuristic"))
    assert (easy[1:] < 0).all()
    assert [bool((frame == PROTECTED_SIMILARITY).all()) for frame in heuristic] == [
        1,
        0,
        0,
        1,
        0,
        0,
    ]


def test_a_place_that_changes_is_rated_by_its_new_content_from_then_on():
    angles = np.zeros((4, 9, 9))
    angles[1:, :3, :3] = 1.5
    ratings, _ = rated("heuristic", angles, topk=0.1)
    assert ratings[:, 0] == pytest.approx([PROTECTED_SIMILARITY, -np.cos(1.5), -1, -1], abs=1e-6)
    assert ratings[1:, 1:] == pytest.approx(-1, abs=1e-6)


@pytest.mark.parametrize("method", BY_SIMILARITY)
def test_a_retry_lowers_the_threshold_and_prunes_no_more(method):
    """At 0.85 frame 1 (similarity 0.83) is protected and only frame 3 may go: 9 tokens of 18."""
    angle = np.arccos(0.83)
    ratings, keep = rated(method, [0.0, angle, angle + 1.5, angle + 1.5])
    assert not keep[[1, 3]].any() and keep[[0, 2]].all()
    assert (ratings[2] == PROTECTED_SIMILARITY).all() and (ratings[1] < 0).all()


@pytest.mark.parametrize("method", BY_SIMILARITY)
def test_where_no_threshold_helps_exactly_k_go_all_the_same(method):
    _, keep = rated(method, [0.0, 1.5, 3.0, 4.5])
    assert (~keep).sum() == 18


@pytest.mark.parametrize("method", BY_SIMILARITY)
def test_a_retry_of_one_video_leaves_the_other_alone(method):
    counts, kinds = one_row(4, 4)
    angle = np.arccos(0.83)
    angles = np.array([0.0, angle, angle + 1.5, angle + 1.5, 0.0, angle, angle, angle])
    x = np.zeros((3, T, 81, 2), np.float32)
    x[0] = np.stack([np.cos(angles), np.sin(angles)], axis=-1)[:, None]
    ratings = np.asarray(_rated(method, x, table(prune(0.5), counts, kinds), 0.85)[0])[0]
    # Of the second video, frames 6 and 7 have the 18 tokens without a retry.
    assert (ratings[1] < 0).all() and (ratings[5] == PROTECTED_SIMILARITY).all()


@pytest.mark.parametrize("method", sorted({*get_args(PruneMethod)} - {"scorer"}))
def test_every_method_that_can_be_set_has_scores_of_its_own(method):
    config = _of_method(method)
    generator = np.random.default_rng(0)
    still, moving = (generator.standard_normal((3, n, P * 9, 4), np.float32) for n in (1, T))
    x = jnp.asarray(still + 0.1 * moving)
    scores, _ = vision._baseline_scores(x, x, table(config.prune), config, jax.random.key(0))
    assert scores.shape == (3, T, P)
    assert (np.ptp(np.asarray(scores)) > 0) == (method != "none")


def test_a_method_that_the_model_does_not_compute_raises():
    config = _of_method("random")
    new = dataclasses.replace(config, prune=dataclasses.replace(config.prune, method="newest"))
    x = jnp.zeros((3, T, P * 9, 4))
    with pytest.raises(ValueError, match=r"method 'newest' is unknown"):
        vision._baseline_scores(x, x, table(), new, jax.random.key(0))
    other = dataclasses.replace(config, prune=dataclasses.replace(config.prune, layout="tight"))
    budget = video_budget(config, frames=T, videos=1, text_tokens=8)
    with pytest.raises(ValueError, match=r"model\.prune\.layout 'tight' is not one of"):
        vision.plan_of(jnp.ones((3, T, P)), table(), budget, other, DenseLayout())


def _of_method(method: str) -> ModelConfig:
    """A model of 3 x 3 tokens a frame."""
    vit = VitConfig(image_size=9, patch_size=1, positions=81, layers=12)
    topk = 0.0 if method == "none" else 0.5
    return ModelConfig(vit=vit, prune=PruneConfig(method=method, topk=topk))
