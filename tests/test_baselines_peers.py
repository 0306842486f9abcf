"""ToMe and EVS against plain references in NumPy, and what the model does with them."""

from __future__ import annotations

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_cases import BUDGET, KEY, ROWS, numpy_rows, rows, small_model, small_model_config
from test_parity_scorer import frames_of

from stts_jax.budget import tokens_to_prune
from stts_jax.layers.gather import take_rows
from stts_jax.model.video_language_model import vision_encoder
from stts_jax.pruning.baselines import BaselineInputs, baseline_scores, merge_targets
from stts_jax.pruning.frames import frame_table
from stts_jax.pruning.layout import DenseLayout
from stts_jax.pruning.merging import Merging, merging
from stts_jax.pruning.pooling_windows import from_windows, to_windows
from stts_jax.pruning.selection import select

T, P, W = 3, 9, 2  # frames, tokens of a frame (3 x 3) and side of a window
N = P * W * W
# Worst seen of means of a few numbers near 1: 2.4e-7.
MEAN = 2e-6


def video(seed: int = 0, width: int = 5) -> jax.Array:
    """One row with one video, (1, T, N, width)."""
    return jnp.asarray(np.random.default_rng(seed).standard_normal((1, T, N, width), np.float32))


def windows_of(x: jax.Array) -> np.ndarray:
    """The tokens of the row, (T, P, patches * width)."""
    return np.asarray(to_windows(x, W))[0].reshape(T, P, -1)


def frames_losing(k: int):
    return frame_table(jnp.array([[T]]), jnp.array([[k]]), T)


@partial(jax.jit, static_argnums=0)
def _drop(method, hidden, frames):
    inputs = BaselineInputs(hidden, frames, W, 0.85, KEY, hidden)
    scores = baseline_scores(method, inputs)
    keep = select(scores, frames)
    targets = merge_targets(method, inputs)
    if targets is None:
        return keep, None, hidden
    merge = merging(keep, targets, W)
    return keep, merge.into, merge.average(hidden)


def drop(method: str, x: jax.Array, k: int):
    """What stays (T, P), the groups (T, P) of a method that merges, and x after that."""
    keep, into, after = _drop(method, x, frames_losing(k))
    return np.asarray(keep)[0], None if into is None else np.asarray(into)[0], after


# ------------------------------------------------------------------------------------------- ToMe


def merged_by_loops(windows: np.ndarray, drop: int) -> dict[int, np.ndarray]:
    """ToMe on one frame with plain loops: what is left, by the index of the token kept.

    Args:
      windows: (P, width), the tokens.
      drop: how many are merged away.
    """
    left = [(index, token.astype(np.float64), 1) for index, token in enumerate(windows)]
    while drop:
        a, b = left[::2], left[1::2]
        pairs = []
        for i, (_, token, _) in enumerate(a):
            cosines = [
                token @ other / np.linalg.norm(token) / np.linalg.norm(other) for _, other, _ in b
            ]
            pairs.append((-max(cosines), i, int(np.argmax(cosines))))
        merges = sorted(pairs)[: min(drop, len(left) // 2)]
        drop -= len(merges)
        for _, i, j in merges:
            index, token, size = b[j]
            total = size + a[i][2]
            b[j] = (index, (token * size + a[i][1] * a[i][2]) / total, total)
        gone = {i for _, i, _ in merges}
        left = [one for i, one in enumerate(a) if i not in gone] + b
    return {index: token for index, token, _ in left}


@pytest.mark.parametrize("k", [1, 3, 4, 6, 8])
def test_tome_merges_what_loops_merge(k):
    """`k` of each frame's 9 tokens: one round merges 4 of them at most."""
    x = video()
    keep, _, merged = drop("tome", x, T * k)
    before, after = windows_of(x), windows_of(merged)
    for frame in range(T):
        expected = merged_by_loops(before[frame], k)
        assert set(np.flatnonzero(keep[frame])) == set(expected)
        for index, token in expected.items():
            assert after[frame, index] == pytest.approx(token, abs=MEAN)


@pytest.mark.parametrize("k", [0, 5, 14, 23])
def test_tome_removes_exactly_k_and_as_many_of_each_frame(k):
    keep, _, _ = drop("tome", video(1), k)
    lost = (~keep).sum(1)
    assert lost.sum() == k and np.ptp(lost) <= 1


@pytest.mark.parametrize("k", [0, 5, 14, 24])
def test_merging_keeps_the_sum_over_all_tokens(k):
    """A kept token is the mean of its group, so that means times sizes add up to the whole."""
    x = video(2)
    keep, into, merged = drop("tome", x, k)
    for before, after, kept, group in zip(
        windows_of(x), windows_of(merged), keep, into, strict=True
    ):
        sizes = np.bincount(group, minlength=P)
        assert ((sizes > 0) == kept).all()
        assert sizes @ after == pytest.approx(before.sum(0), abs=10 * MEAN)


def test_a_token_that_nothing_merges_into_stays_as_it_is():
    x = video(3)
    assert (drop("tome", x, 0)[2] == x).all()


def test_gradients_reach_all_that_was_merged():
    into = jnp.tile(jnp.array([4, 1, 4, 3, 4, 5, 6, 7, 8]), (1, T, 1))

    def center(x: jax.Array) -> jax.Array:
        return to_windows(Merging(into, W).average(x), W)[:, :, 4].sum()

    gradient = windows_of(jax.jit(jax.grad(center))(video()))
    assert gradient[:, [0, 2, 4]] == pytest.approx(1 / 3)
    assert (gradient[:, [1, 3, 5, 6, 7, 8]] == 0).all()


def test_windows_go_back_into_the_grid():
    x = video(4)
    assert (from_windows(to_windows(x, W), W) == x).all()


# -------------------------------------------------------------------------------------------- EVS


def kept_by_vllm(tokens: np.ndarray, dropped: int) -> np.ndarray:
    """The rule of vLLM's evs.py on (T, P, width): a mask (T, P)."""
    unit = tokens / np.linalg.norm(tokens, axis=-1, keepdims=True)
    difference = 1 - (unit[1:] * unit[:-1]).sum(-1)
    difference = np.concatenate([np.full((1, P), 255.0), difference])
    order = np.argsort(-difference.ravel(), kind="stable")
    keep = np.zeros(T * P, bool)
    keep[order[: T * P - dropped]] = True
    return keep.reshape(T, P)


@pytest.mark.parametrize("dropped", [1, 9, 18])
def test_evs_keeps_what_vllm_keeps(dropped):
    x = video(5)
    assert (drop("evs", x, dropped)[0] == kept_by_vllm(windows_of(x), dropped)).all()


def test_evs_keeps_first_frames_while_others_have_enough():
    frames = frames_of(np.array([1, 2]), 3, np.array([0, 9]))
    keep = np.asarray(_drop("evs", jnp.ones((1, 3, N, 2)), frames)[0])
    assert keep[0].all(-1).tolist() == [True, True, False] and not keep[0, 2].any()


# ------------------------------------------------------------------------------------- the model


def encoded(config):
    """The output of the ViT, for rows that fit each method."""
    encode = jax.jit(lambda model, batch: vision_encoder(model)(batch, BUDGET, key=KEY))
    return encode(small_model(config), rows())


@cache
def unpruned_features():
    return encoded(small_model_config(prune__method="none", prune__topk=0.0)).features


def test_evs_drops_after_the_vit():
    config = small_model_config(prune__method="evs")
    pruned = encoded(config)
    assert (pruned.features == unpruned_features()).all()
    batch = numpy_rows()
    k = tokens_to_prune(batch.num_images, batch.multimodal_type, config.prune, P)
    tokens = np.maximum(batch.num_images, 0).sum() * P
    assert k.sum() > 0 and pruned.plan.keep.sum() == tokens - k.sum()


@pytest.mark.parametrize(
    "changes",
    [{}, {"prune__layout": "first_fit"}, {"prune__pruning_in_scorer": False}],
    ids=["stream", "first-fit", "after-the-vit"],
)
def test_every_layout_has_the_means_of_what_merged(changes):
    """Merged after the last block, so that the means are those of the unpruned model's features."""
    config = small_model_config(prune__method="tome", prune__prune_at=3, **changes)
    out = encoded(config)
    pooling = rows().token_pooling
    stays = take_rows(out.plan.keep_patches.reshape(ROWS, -1), pooling, fill=False)
    windows = jnp.where(stays, pooling, -1)
    means = DenseLayout().lookup(out.plan.merge(unpruned_features()), windows)
    assert np.abs(means - DenseLayout().lookup(unpruned_features(), windows)).max() > 0.1
    found = out.plan.layout.lookup(out.features, windows)
    assert np.asarray(found) == pytest.approx(np.asarray(means), abs=MEAN)
