"""Scorer, selection, counts and bins, each on its own, equal the recorded reference."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from native_arrays import from_native, to_native
from reference_cases import KEY, TIE, cases, cut_is_tied, load, under, vision_names, worst

from convert.names import Name
from stts_jax.budget import MultimodalType, tokens_to_prune
from stts_jax.config import ModelConfig, PruneConfig, VitConfig
from stts_jax.model.video_language_model import token_scorer
from stts_jax.pruning.first_fit import first_fit_layout
from stts_jax.pruning.frames import FrameTable
from stts_jax.pruning.pooling_windows import to_patches
from stts_jax.pruning.scorer import TokenScorer
from stts_jax.pruning.selection import protect_first_frames, select
from stts_jax.pruning.temporal_loss import adjacent_similarity

# Worst seen: scores 8.9e-8, gradients 2.3e-7, similarities 4.5e-8.
SCORES = 5e-6
GRADIENTS = 2e-5
SIMILARITY = 5e-6


def scorer_table() -> tuple[Name, ...]:
    """Scorer rows of the table of names, without prefixes."""
    prefix, native = "scorer.", "transformer.temporal_token_scorer."
    return tuple(
        Name(n.ours.removeprefix(prefix), n.native.removeprefix(native), n.transpose, n.rows)
        for n in vision_names(scorer=True)
        if n.ours.startswith(prefix)
    )


def scorer_config(case: dict[str, np.ndarray]) -> ModelConfig:
    """Only the sizes that the scorer takes from the configuration; ragged grids included."""
    width = case["x"].shape[-1]
    vit = VitConfig(
        width=width,
        heads=int(case["num_heads"]),
        head_dim=int(case["head_dim"]),
        mlp_width=case["w/mlp.w1.weight"].shape[0],
    )
    return ModelConfig(vit=vit)


def fold_key_heads(arrays: dict[str, np.ndarray], heads: int, key_heads: int) -> dict[str, Any]:
    """Repeat the weights of key heads that serve several query heads; ours has one for each."""

    def repeat(array: np.ndarray) -> np.ndarray:
        split = array.reshape(key_heads, -1, *array.shape[1:])
        return np.repeat(split, heads // key_heads, axis=0).reshape(-1, *array.shape[1:])

    return {
        name: repeat(array) if ".wk." in name or ".wv." in name else array
        for name, array in arrays.items()
    }


def unfold_key_heads(arrays: dict[str, np.ndarray], heads: int, key_heads: int) -> dict[str, Any]:
    """Gradients of repeated weights, summed."""

    def add(array: np.ndarray) -> np.ndarray:
        head = array.shape[0] // heads
        split = array.reshape(key_heads, heads // key_heads, head, *array.shape[1:])
        return split.sum(1).reshape(-1, *array.shape[1:])

    return {
        name: add(array) if ".wk." in name or ".wv." in name else array
        for name, array in arrays.items()
    }


SCORERS = cases("scorer_*.npz")


@pytest.mark.parametrize("path", SCORERS, ids=lambda path: path.stem)
def test_parity_scorer_and_its_gradients(path: Path, worst_error: Any) -> None:
    case = load(path)
    config = scorer_config(case)
    heads = int(case["num_heads"]), int(case["num_kv_heads"])
    arrays = fold_key_heads(under(case, "w/"), *heads)
    abstract = jax.eval_shape(lambda: token_scorer(config, key=KEY))
    scorer = from_native(abstract, arrays, scorer_table())
    x = jnp.asarray(case["x"])[None]

    @partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
    def weighted(scorer: TokenScorer, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        scores = scorer(x)
        return (scores[0] * case["R"]).sum(), scores[0]

    (_, scores), (gradient, gradient_x) = jax.jit(weighted)(scorer, x)
    error = worst(scores, case["scores"])
    worst_error.add(path.stem, "scores", error, SCORES)
    assert error <= SCORES
    ours = unfold_key_heads(to_native(gradient, scorer_table()), *heads) | {"x": gradient_x[0]}
    theirs = under(case, "grad/") | {"x": case["grad_x"]}
    error = max(worst(ours[name], theirs[name]) for name in theirs)
    worst_error.add(path.stem, "gradients", error, GRADIENTS)
    assert error <= GRADIENTS


@pytest.mark.parametrize(
    "path", [path for path in SCORERS if "ragged" not in path.stem], ids=lambda path: path.stem
)
def test_parity_similarity_of_neighbouring_frames(path: Path, worst_error: Any) -> None:
    """Ragged grids are left out: their empty slots read patch 0 of the batch, ours are zeros."""
    case = load(path)
    frames, tokens = case["scores"].shape
    ours = adjacent_similarity(jnp.asarray(case["x"])[None], pooling=3)[0]
    everything = case["cosine_sims"].reshape(frames, tokens, frames, tokens)
    theirs = [np.diagonal(everything[t, :, t + 1]) for t in range(frames - 1)]
    error = worst(ours, np.stack(theirs))
    worst_error.add(path.stem, "similarity", error, SIMILARITY)
    assert error <= SIMILARITY


def test_parity_counts() -> None:
    for path in cases("prune_counts*.npz"):
        case = load(path)
        for entry in json.loads(str(case["meta"])):
            prune = PruneConfig(
                method="scorer", topk=entry["topk"], prune_from_frame=entry["prune_from_frame"]
            )
            frames = case["num_images"].astype(np.int32)
            kinds = np.full_like(frames, MultimodalType.VIDEO)
            ours = tokens_to_prune(frames, kinds, prune, tokens_per_frame=81)
            assert (ours == np.minimum(case[str(entry["i"])], 81 * frames)).all()


def frames_of(num_images: np.ndarray, total: int, to_prune: np.ndarray) -> FrameTable:
    """Frames of one row with given counts, the rest padding."""
    counts = np.maximum(num_images, 0)
    example = np.repeat(np.arange(len(counts) + 1), [*counts, total - counts.sum()])
    start = np.concatenate([[0], np.cumsum(counts)])
    return FrameTable(
        example=jnp.asarray(example[None], jnp.int32),
        real=jnp.asarray((example < len(counts))[None]),
        first=jnp.asarray((np.arange(total) == start[example])[None]),
        prunable=jnp.asarray((np.append(to_prune, 0)[example] > 0)[None]),
        start=jnp.asarray(start[None], jnp.int32),
        to_prune=jnp.asarray(np.append(to_prune, 0)[None], jnp.int32),
    )


@partial(jax.jit, static_argnums=2)
def kept_patches(scores: jax.Array, frames: FrameTable, grid: int) -> jax.Array:
    """(T, P) scores of one row -> (T, N) whether a patch stays."""
    keep = select(protect_first_frames(scores[None], frames), frames)
    return to_patches(keep[0], grid, pooling=3)


def test_parity_masks_from_given_scores(worst_error: Any) -> None:
    for path in cases("prune_masks*.npz"):
        case = load(path)
        for entry in json.loads(str(case["meta"])):
            own = under(case, f"{entry['i']}_")
            scores, prunable = own["scores"], own["prunable_frame_mask"]
            # Frames that are not prunable are images among the videos; put the videos first.
            order = np.argsort(~prunable, kind="stable")
            frames = frames_of(own["num_images"], len(scores), own["num_to_prune"])
            patches = kept_patches(scores[order], frames, entry["grid"])
            mask = np.array(patches)[: prunable.sum()]
            if entry["ragged"]:
                # The -1 of a ragged grid marks the last patch of the last frame as kept.
                mask[-1, -1] = own["valid_mask"][-1, -1]
            tied = cut_is_tied(
                scores[order][None], own["num_images"][None], own["num_to_prune"][None]
            )
            assert mask.sum() == own["valid_mask"].sum()
            if tied:
                worst_error.only_counted(f"{path.stem} {entry['i']} masks", TIE)
                continue
            assert (mask == own["valid_mask"]).all()


@jax.jit
def bins(mask: jax.Array, x: jax.Array) -> tuple[jax.Array, ...]:
    """Of one row: bins in use, what lies in the bins, their segments, and what refills them."""
    layout = first_fit_layout(mask[None], sizes=(len(mask),))
    return layout.used_bins, layout.gather(x[None]), layout.segment_ids, layout.refilled[0]


def test_parity_bins(worst_error: Any) -> None:
    compared = 0
    for path in cases("rearrange*.npz"):
        case = load(path)
        for entry in json.loads(str(case["meta"])):
            own = under(case, f"{entry['i']}_")
            mask = own["i_valid_mask"] if "i_valid_mask" in own else own["valid_mask"]
            used, gathered, segments, refills = map(np.asarray, bins(mask, own["x"]))
            lone_empty = entry["n_empty"] == 1  # the reference runs one bin more, see first_fit.py
            assert used == entry["BT_prime"] - lone_empty or entry["tie"]
            if entry["tie"]:
                worst_error.only_counted(f"{path.stem} {entry['i']} bins", TIE)
                continue
            assert gathered[:used] == pytest.approx(own["rearranged"][:used], abs=0)
            segments = segments[:used]
            allowed = (segments[:, :, None] == segments[:, None, :]) & (segments[:, :, None] >= 0)
            assert (allowed == own["attn_mask"][:used]).all()
            refilled = own["refill_mask"] & (mask.any(-1, keepdims=True))
            assert (refills == (refilled & ~mask)).all()
            compared += 1
    assert compared > 0
