"""The ViT with scorer and first-fit packing equals the recorded reference.

Two things differ on purpose, and are looked at accordingly:
- rows don't see each other, so the scores of a row's frame 0 (which nothing uses) follow zeros
  where the reference's follow the last frame of the row before;
- a single frame without kept patches gets no bin of its own (the reference runs one in vain).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens_folder import goldens_dir
from native_arrays import from_native
from reference_cases import (
    KEY,
    NOT_CARRIED,
    TIE,
    cases,
    cut_is_tied,
    load,
    run_vision,
    table,
    under,
    vision_config,
    vision_names,
    weights,
    worst,
)

from convert.fields import Fields
from convert.reference_config import vit_config
from stts_jax.budget import tokens_to_prune
from stts_jax.config import ModelConfig
from stts_jax.model.vision import VisionOutput
from stts_jax.model.vit import VisionTransformer, resize_positions
from stts_jax.pruning.layout import DenseLayout

# Worst seen: hidden states 1.0e-6, scores 1.8e-6, both relative to the largest value.
HIDDEN = 2e-5
SCORES = 5e-6
POSITIONS = 1e-6


def compare(
    name: str,
    case: dict[str, np.ndarray],
    config: ModelConfig,
    output: VisionOutput,
    recorded: dict[str, Any],
    worst_error: Any,
) -> bool:
    """Scores, kept patches, bins; True if positions may be compared too (no tie at the cut)."""
    rows, frames = case["images"].shape[:2]
    scores = np.asarray(output.scores)
    expected = recorded["scores"].reshape(scores.shape)
    comparable = np.ones(scores.shape[:2], bool)
    comparable[1:, 0] = False
    error = worst(scores[comparable], expected[comparable])
    worst_error.add(name, "scores", error, SCORES)
    assert error <= SCORES

    counts, kinds = case["num_images"], case["multimodal_type"]
    k = tokens_to_prune(counts, kinds, config.prune, config.tokens_per_frame)
    prunable = np.asarray(output.frames.prunable).reshape(-1)
    assert (prunable == recorded["prunable_frame_mask"]).all()
    keep = np.asarray(output.plan.keep_patches).reshape(rows * frames, -1)
    mask = recorded["valid_mask"]
    if mask.shape[0] != keep.shape[0]:  # without packing only prunable frames are recorded
        keep = keep[prunable]
    assert keep.sum() == mask.sum()
    if cut_is_tied(expected, counts, k):
        worst_error.only_counted(name, TIE)
        return False
    assert (keep == mask).all()
    return True


def compare_bins(output: VisionOutput, recorded: dict[str, Any]) -> None:
    """Bins used and share of refilled patches, unless the reference ran its extra empty bin."""
    per_frame = recorded["valid_mask"].sum(-1)
    if (per_frame == 0).sum() == 1 or not np.asarray(output.frames.prunable).any():
        return
    assert int(output.plan.layout.used_bins) == int(recorded["new_batch_size"])
    prunable = recorded["prunable_frame_mask"]
    kept = recorded["valid_mask"][prunable].sum()
    share = np.asarray(output.plan.layout.refilled).sum() / kept
    assert share == pytest.approx(float(recorded["refill_over_kept"]), abs=1e-6)


SCORED = [
    (path, key.removesuffix("_valid_mask"))
    for path in cases("stts_*.npz")
    for key in load(path)
    if key.startswith("topk") and key.endswith("_valid_mask")
]


def scored_config(path: Path, ratio: str) -> ModelConfig:
    case = load(path)
    layers = tuple(case.get(f"{ratio}_hidden_post_layers", case.get(f"{ratio}_layers", [])))
    return vision_config(table(case), tuple(map(int, layers)) or (-1,), case[f"{ratio}_cfg_topk"])


@pytest.mark.parametrize(
    ("path", "ratio"), SCORED, ids=[f"{path.stem}-{ratio}" for path, ratio in SCORED]
)
def test_parity_pruned_vit(path: Path, ratio: str, worst_error: Any) -> None:
    case = load(path)
    config = scored_config(path, ratio)
    alike = [path for path, other in SCORED if scored_config(path, other) == config]
    output, hidden = run_vision(case, config, weights("stts_vit"), alike)
    recorded = {"scores": case["scores"], "prunable_frame_mask": case["prunable_frame_mask"]}
    recorded |= {
        name: case[f"{ratio}_{name}"]
        for name in ("valid_mask", "new_batch_size", "refill_over_kept")
        if f"{ratio}_{name}" in case
    }
    name = f"{path.stem} {ratio}"
    if not compare(name, case, config, output, recorded, worst_error):
        return
    if config.prune.pruning_in_scorer:
        compare_bins(output, recorded)
    key = f"{ratio}_hidden_post" if f"{ratio}_hidden_post" in case else f"{ratio}_hidden"
    expected = case[key]
    if np.asarray(output.frames.prunable).any() and config.prune.pruning_in_scorer:
        error = worst(hidden, expected)
    else:  # nothing is packed: the reference leaves padding frames as they come
        real = np.asarray(output.frames.real).reshape(-1)
        error = worst(hidden[:, real], expected[:, real])
    worst_error.add(name, "hidden states", error, HIDDEN)
    assert error <= HIDDEN


WITHOUT_PACKING = cases("stts_noinscorer_*.npz") + cases("stts_noprune*.npz")


@pytest.mark.parametrize("path", WITHOUT_PACKING, ids=lambda path: path.stem)
def test_parity_without_packing(path: Path, worst_error: Any) -> None:
    case = load(path)
    layers = tuple(map(int, case["hidden_states_layers"]))
    config = vision_config(table(case), layers, case.get("cfg_topk"))
    output, hidden = run_vision(case, config, weights("stts_vit"))
    if config.prune.method == "scorer" and not compare(
        path.stem, case, config, output, case, worst_error
    ):
        return
    error = worst(hidden, case["hidden_states"])
    worst_error.add(path.stem, "hidden states", error, HIDDEN)
    assert error <= HIDDEN


@pytest.mark.parametrize(
    "path",
    [path for path in cases("stts_*.npz") if "hidden_pre" in load(path)],
    ids=lambda path: path.stem,
)
def test_parity_layers_before_the_prune(path: Path, worst_error: Any) -> None:
    """Up to the biased block every patch is there, so nothing needs to be packed to see them."""
    case = load(path)
    ratio = next(key for key in case if key.endswith("_cfg_topk"))
    layers = tuple(map(int, case["hidden_pre_layers"]))
    biased = int(table(case)["prune_at"]) + 1
    config = vision_config(table(case), (*layers, biased), case[ratio], pruning_in_scorer=False)
    _, hidden = run_vision(case, config, weights("stts_vit"))
    error = worst(hidden[:-1], case["hidden_pre"])
    worst_error.add(path.stem, "hidden states before the prune", error, HIDDEN)
    assert error <= HIDDEN


EDGE = [
    (path, name)
    for path in cases("stts_edge*.npz")
    for name in sorted({key.split("/")[0] for key in load(path) if "/" in key})
]


@pytest.mark.parametrize(("path", "name"), EDGE, ids=[name for _, name in EDGE])
def test_parity_edge_cases(path: Path, name: str, worst_error: Any) -> None:
    """Videos of one or two frames, `prune_from_frame`, rows without any frame."""
    whole = load(path)
    case = under(whole, f"{name}/")
    vit = table(whole) if "config_json" in whole else table(load(cases("stts_one_padded1.npz")[0]))
    arrays = weights("edge_vit")
    depth = 1 + max(int(k.split("resblocks.")[1].split(".")[0]) for k in arrays if "resblocks" in k)
    vit = {**vit, "image_num_layers": depth, "image_mlp_dim": _mlp_width(arrays)}
    config = vision_config(
        vit, (depth - 1,), case["cfg_topk"], prune_from_frame=int(case["prune_from_frame"])
    )
    output, hidden = run_vision(case, config, arrays)
    if not compare(name, case, config, output, case, worst_error):
        return
    compare_bins(output, case)
    packed = np.asarray(output.frames.prunable).any()
    seen = slice(None) if packed else np.asarray(output.frames.real).reshape(-1)
    error = worst(hidden[0][seen], case["hidden_last"][seen])
    worst_error.add(name, "hidden states", error, HIDDEN)
    assert error <= HIDDEN


def _mlp_width(arrays: dict[str, np.ndarray]) -> int:
    return arrays["transformer.resblocks.0.feed_forward.w1.weight"].shape[0]


# Any folder that has the inputs must have the cases.
GRID27 = (
    [pytest.param(path, id=path.stem) for path in cases("grid27_topk*.npz")]
    if (goldens_dir() / "grid27_inputs.npz").exists()
    else [pytest.param(None, marks=NOT_CARRIED)]
)


@pytest.mark.parametrize("path", GRID27)
def test_parity_true_grid(path: Path, worst_error: Any) -> None:
    """27 x 27 patches, 81 tokens a frame, the true ratio."""
    case = load(path)
    inputs = load(cases("grid27_inputs.npz")[0])
    pixels = (inputs["images_u8"].astype(np.float32) / 255.0 - 0.5) / 0.5
    case = {**inputs, **case, "images": pixels.astype(np.float32)}
    layers = tuple(map(int, case["layers_saved"]))
    config = vision_config(table(case), layers, None)
    output, hidden = run_vision(case, config, weights("grid27_vit"))
    if not compare(path.stem, case, config, output, case, worst_error):
        return
    compare_bins(output, case)
    error = worst(hidden, case["hidden_sel"])
    worst_error.add(path.stem, "hidden states", error, HIDDEN)
    assert error <= HIDDEN


@pytest.mark.parametrize("path", cases("vit_posemb*.npz"), ids=lambda path: path.stem)
def test_parity_positions_of_another_grid(path: Path, worst_error: Any) -> None:
    case, arrays = load(path), under(load(path), "w/")
    wanted = case["pos_emb_resized"]
    assert arrays["positional_embedding"].shape != wanted.shape
    positions = jnp.asarray(arrays["positional_embedding"])
    error = worst(resize_positions(positions, len(wanted)), wanted)
    worst_error.add(path.stem, "positions", error, POSITIONS)
    assert error <= POSITIONS

    # The ViT alone: nothing is pooled or pruned, so any grid will do.
    expected = case["hidden_states"]
    depth = table(case)["image_num_layers"]
    config = vit_config(Fields(table(case)), tuple(range(depth)[-len(expected) :]))
    abstract = jax.eval_shape(lambda: {"vit": VisionTransformer(config, key=KEY)})
    vit = jax.tree.map(jnp.asarray, from_native(abstract, arrays, vision_names(False))["vit"])
    _, hidden = vit.run(
        vit.embed(jnp.asarray(case["images"]), jnp.float32), 0, depth, DenseLayout(), remat=False
    )
    hidden = [hidden[layer].reshape(expected[0].shape) for layer in config.feature_layers]
    error = worst(np.stack(hidden), expected)
    worst_error.add(path.stem, "hidden states", error, HIDDEN)
    assert error <= HIDDEN
