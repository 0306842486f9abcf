"""How many tokens each video loses, by scores: shared in a row, or below a threshold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_cases import BUDGET, KEY, rows, small_model
from model_cases import small_model_config as small
from model_checks import forward
from random_batches import VIDEO
from test_pruning import SCORES, P, one_row, prune, table

from stts_jax.pruning.adaptive import (
    below_threshold,
    bucket_index,
    calibrated_threshold,
    share_in_row,
)
from stts_jax.pruning.selection import PROTECTED_SCORE, protect_first_frames, select

HALF = prune()
shared, below, selected = map(jax.jit, (share_in_row, below_threshold, select))
_raised = jax.jit(protect_first_frames)


def videos_of(frames):
    """(row, example, its frames) of all examples that lose tokens."""
    example, to_prune = np.asarray(frames.example), np.asarray(frames.to_prune)
    for row, counts in enumerate(to_prune):
        for number in np.flatnonzero(counts):
            yield row, number, np.flatnonzero(example[row] == number)


def raised(scores, frames):
    return np.asarray(_raised(scores, frames))


# ------------------------------------------------------------------------------- shared in a row


def test_the_lowest_scores_of_a_row_go_and_as_many_as_before():
    frames = table()
    scores = raised(SCORES, frames)
    found = shared(scores, frames)
    assert (found.to_prune.sum(1) == frames.to_prune.sum(1)).all()
    keep = np.asarray(selected(scores, found))
    for row in range(len(SCORES)):
        own = [index for r, _, index in videos_of(frames) if r == row]
        if not own:
            continue
        tokens = np.concatenate([scores[row, index].reshape(-1) for index in own])
        stays = np.concatenate([keep[row, index].reshape(-1) for index in own])
        assert tokens[~stays].max() < tokens[stays].min()
        assert (~stays).sum() == int(frames.to_prune[row].sum())


def test_a_still_video_gives_tokens_to_a_busy_one():
    frames = table(HALF, *one_row(3, 3))
    scores = np.where(np.asarray(frames.example)[..., None] == 0, 0.1 * SCORES, SCORES)
    found = np.asarray(shared(raised(scores, frames), frames).to_prune)[0]
    before = np.asarray(frames.to_prune)[0]
    assert found[0] == min(2 * P, before.sum()) > before[0] and found[1] < before[1]


def test_what_is_not_pruned_keeps_all_its_tokens():
    frames = table()
    zero = np.asarray(frames.to_prune) == 0
    found = shared(raised(SCORES, frames), frames)
    assert (np.asarray(found.to_prune)[zero] == 0).all()


def test_of_equal_scores_those_of_earlier_videos_go():
    frames = table(HALF, *one_row(3, 3))
    found = np.asarray(shared(raised(np.full_like(SCORES, 0.5), frames), frames).to_prune)[0]
    assert found[0] == 2 * P and found[:2].sum() == np.asarray(frames.to_prune)[0].sum()


def test_one_video_in_a_row_keeps_the_tokens_that_it_kept():
    frames = table(HALF, *one_row(5))
    found = shared(raised(SCORES, frames), frames)
    assert (np.asarray(found.to_prune) == np.asarray(frames.to_prune)).all()


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["stream", "first_fit"])
def test_a_model_whose_rows_share_keeps_as_many_tokens_and_others(layout):
    kept, batch = {}, rows(kinds=(VIDEO,), max_frames=3)
    for share in ("video", "row"):
        model = small_model(small(prune__layout=layout, prune__share=share))
        loss, (_, fused) = forward(model, batch, BUDGET, KEY, False)
        kept[share] = np.asarray(fused.vision.plan.keep)
        assert np.isfinite(loss)
    counts = {share: keep.sum((1, 2)) for share, keep in kept.items()}
    assert (counts["video"] == counts["row"]).all() and (kept["video"] != kept["row"]).any()


# ------------------------------------------------------------------------------- by a threshold


def test_a_video_loses_what_scores_below_the_threshold():
    frames = table()
    scores = raised(SCORES, frames)
    found = below(scores, frames, 0.4)
    keep = np.asarray(selected(scores, found))
    prunable = np.asarray(frames.prunable)[..., None]
    stays = (scores >= 0.4) | ~prunable
    assert (keep == stays & np.asarray(frames.real)[..., None]).all()
    assert (~keep & prunable).any()


def test_no_video_loses_its_first_frame():
    frames = table()
    found = below(raised(SCORES, frames), frames, 2.0)
    for _, number, index in videos_of(found):
        assert number >= 0 and len(index) > 1
    for row, number, index in videos_of(frames):
        assert int(found.to_prune[row, number]) == (len(index) - 1) * P


@pytest.mark.parametrize(
    ("kept", "index"), [([3, 10], 0), ([11, 4], 1), ([20, 20], 1), ([21], 2), ([40], 2)]
)
def test_the_smallest_bucket_that_holds_every_row_is_chosen(kept, index):
    assert bucket_index(jnp.array(kept), (10, 20, 40)) == index


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.7])
def test_a_calibrated_threshold_drops_the_share_that_is_wanted(ratio):
    rng = np.random.default_rng(0)
    videos = [rng.uniform(0, still, (n, P)) for n, still in ((6, 1.0), (9, 0.2), (4, 0.6))]
    for video in videos:
        video[0] = PROTECTED_SCORE
    threshold = calibrated_threshold(videos, ratio)
    low = sum((video < threshold).sum() for video in videos)
    assert low == round(ratio * sum(video.size for video in videos))
    assert (videos[1] < threshold).mean() >= (videos[0] < threshold).mean()


def test_sharing_changes_neither_bias_nor_temporal_loss():
    frames = table()
    found = shared(raised(SCORES, frames), frames)
    for name in ("example", "real", "first", "prunable", "start"):
        assert (getattr(found, name) == getattr(frames, name)).all()
