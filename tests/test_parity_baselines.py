"""The baselines equal the recorded reference, alone and in the ViT, where no retry was made.

The reference's own crash; recorded is what they do with the lines mended that crash. Two things
differ on purpose: its retries start from what the try before has dropped, so that each drops k
tokens more, down to none at all; and its budget is a row's, ours is that of each video.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from goldens_folder import goldens_dir
from reference_cases import (
    KEY,
    NOT_CARRIED,
    RETRY,
    TIE,
    cases,
    cut_is_tied,
    load,
    run_vision,
    table,
    under,
    vision_config,
    weights,
    worst,
)
from test_parity_scorer import frames_of

from stts_jax.budget import tokens_to_prune
from stts_jax.model.vision import VisionOutput
from stts_jax.pruning.baselines import BaselineInputs, baseline_scores
from stts_jax.pruning.baselines.similarity import PROTECTED_SIMILARITY
from stts_jax.pruning.frames import FrameTable
from stts_jax.pruning.pooling_windows import to_patches
from stts_jax.pruning.selection import select

# Worst seen: hidden states 4.3e-7, similarities 6.0e-7.
HIDDEN = 2e-5
SIMILARITY = 5e-6


@partial(jax.jit, static_argnums=(0, 4))
def scores_and_kept(
    method: str, x: jax.Array, frames: FrameTable, threshold: float, grid: int
) -> tuple[jax.Array, jax.Array]:
    """(T, N, D) of one row -> (1, T, P) scores, (1, T, N) whether a patch stays."""
    scores = baseline_scores(method, BaselineInputs(x[None], frames, 3, threshold, KEY, x[None]))
    return scores, to_patches(select(scores, frames), grid, 3)


@pytest.mark.parametrize("method", ["heuristic", "easy"])
def test_parity_baselines_when_no_retry_is_needed(method: str, worst_error: Any) -> None:
    """Ragged grids are left out: their empty slots read patch 0 of the batch, ours are zeros."""
    compared = 0
    for path in cases("heuristic_masks*.npz"):
        case = load(path)
        for entry in json.loads(str(case["meta"])):
            own = under(case, f"{entry['i']}_")
            if entry["method"] != method or not entry["flag"] or entry["ragged"]:
                continue
            rows, total = len(own["first_padding"]), entry["T"]
            x = own["x"].reshape(rows, total, *own["x"].shape[1:])
            for row in range(rows):
                k = own["num_to_prune"][row : row + 1]
                frames = frames_of(own["first_padding"][row : row + 1], total, k)
                ratings, keep = map(
                    np.asarray,
                    scores_and_kept(method, x[row], frames, entry["thr"], entry["grid"]),
                )
                real = np.asarray(frames.real)[0]
                expected = own[f"{method}_valid_mask"][row].reshape(total, -1)
                assert keep[0].sum() == expected.sum()
                if cut_is_tied(ratings, own["first_padding"][row : row + 1][None], k[None], False):
                    worst_error.only_counted(f"{path.stem} {entry['i']} row {row} {method}", TIE)
                    continue
                assert (keep[0][real] == expected[real]).all()
                compared += 1
    assert compared > 0


# Any folder that has the weights must have the cases.
BASELINES = (
    [
        pytest.param(path, entry, id=entry["case"])
        for path in cases("heuristic_vit*.npz")
        for entry in table(load(path), "meta")
    ]
    if (goldens_dir() / "heuristic_vit.safetensors").exists()
    else [pytest.param(None, None, marks=NOT_CARRIED)]
)


@pytest.mark.parametrize(("path", "entry"), BASELINES)
def test_parity_baselines_in_the_vit(path: Path, entry: dict[str, Any], worst_error: Any) -> None:
    """Where retries were made: the similarities, and that ours keep as many as a first try."""
    case, vit, name = under(load(path), f"{entry['case']}/"), table(load(path)), entry["case"]
    vit |= {"prune_method": entry["method"], "new_ref_threshold": entry["new_ref_threshold"]}
    config = vision_config(
        vit,
        (vit["image_num_layers"] - 1,),
        entry["cfg_topk"],
        prune_from_frame=entry["prune_from_frame"],
    )
    output, hidden = run_vision(case, config, weights("heuristic_vit"))
    compare_similarity(name, output, case["cosine_sims"], entry["method"], worst_error)

    keep, real = np.asarray(output.plan.keep_patches), np.asarray(output.frames.real)
    assert keep.sum() == entry["tries"][0][-1]
    counts = case["num_images"]
    k = tokens_to_prune(counts, case["multimodal_type"], config.prune, config.tokens_per_frame)
    tied = cut_is_tied(np.asarray(output.scores), counts, k, first_is_safe=False)
    if len(entry["tries"]) > 1 or tied:
        worst_error.only_counted(name, TIE if tied else RETRY)
        return
    assert (keep == case["valid_mask"].reshape(keep.shape)).all()
    left = keep.any(-1).reshape(-1, 1)
    lone_empty = (~left).sum() == 1  # the reference runs one bin more, see first_fit.py
    assert int(output.plan.layout.used_bins) == case["new_batch_size"] - lone_empty
    refilled = case["refill_mask"] & left & ~keep.reshape(len(left), -1)
    assert (np.asarray(output.plan.layout.refilled).reshape(refilled.shape) == refilled).all()
    error = worst(hidden[:, real.reshape(-1)], case["hidden_states"][:, real.reshape(-1)])
    worst_error.add(name, "hidden states", error, HIDDEN)
    assert error <= HIDDEN


def compare_similarity(
    name: str, output: VisionOutput, recorded: np.ndarray, method: str, worst_error: Any
) -> None:
    """A token is rated by the frame before (`easy`), or by an earlier one (`heuristic`)."""
    ratings, rated = np.asarray(output.scores), np.asarray(output.frames.real)
    rated = rated & ~np.asarray(output.frames.first)
    rows, frames, tokens = ratings.shape
    everything = recorded.reshape(rows, frames, tokens, frames, tokens)
    for row, frame in np.argwhere(rated):
        own = ratings[row, frame]
        earlier = np.diagonal(everything[row, :frame, :, frame], axis1=1, axis2=2)
        distance = np.abs(earlier + own)[-1 if method == "easy" else slice(None)]
        distance = distance.reshape(-1, tokens).min(0)
        error = distance[own != PROTECTED_SIMILARITY].max(initial=0)
        worst_error.add(name, "similarity", error, SIMILARITY)
        assert error <= SIMILARITY
