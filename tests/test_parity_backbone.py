"""ViT, pruning and connector together equal the recorded reference, forward and backward."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from float32_encoding import encode
from native_arrays import from_native, to_native
from reference_cases import (
    KEY,
    TIE,
    cases,
    load,
    same_sizes,
    table,
    under,
    weights,
    worst,
    worst_gradient,
)

from convert.fields import Fields
from convert.names import Name, name_table
from convert.reference_config import REFERENCE_TOKENS_PER_FRAME, prune_config, vit_config
from stts_jax.batch import VISUAL_FIELDS, Batch
from stts_jax.budget import Budget
from stts_jax.config import ConnectorConfig, LlmConfig, ModelConfig
from stts_jax.layers.gather import static_nonzero, take_rows
from stts_jax.model.connector import Connector
from stts_jax.model.video_language_model import token_scorer
from stts_jax.model.vision import VisionOutput
from stts_jax.model.vit import VisionTransformer
from stts_jax.pruning.pooling_windows import to_patches
from stts_jax.pruning.selection import PROTECTED_SCORE

# Worst seen: features 2.7e-6, scores 1.8e-6, loss 1.3e-7, gradients 1.8e-5, their norms 8.9e-5
# (relative).
FEATURES = 2e-5
SCORES = 5e-6
LOSS = 2e-5
GRADIENTS = 1e-4
PREFIX = "vision_backbone."


def backbone_names(config: ModelConfig) -> tuple[Name, ...]:
    """Rows of the table of names that belong to the vision backbone, without its prefix."""
    return tuple(
        Name(n.ours, n.native.removeprefix(PREFIX), n.transpose, n.rows)
        for n in name_table(config)
        if n.native.startswith(PREFIX)
    )


def backbone_config(case: dict[str, np.ndarray], topk: np.ndarray) -> ModelConfig:
    backbone, llm = table(case), table(case, "llm_json")
    vit = {**backbone["vit"], "topk": float(topk)}
    config = ModelConfig(
        vit=vit_config(Fields(vit), tuple(backbone["vit_layers"])),
        prune=prune_config(Fields(vit)),
        connector=ConnectorConfig(
            heads=vit["image_num_heads"],
            head_dim=vit["image_head_dim"],
            width=vit["image_emb_dim"],
            mlp_width=llm["mlp_hidden_size"] // 2,
            pooling_attention_mask=backbone["pooling_attention_mask"],
        ),
        llm=LlmConfig(width=llm["d_model"]),
    )
    assert REFERENCE_TOKENS_PER_FRAME * float(topk) == pytest.approx(
        config.prune.topk * config.tokens_per_frame
    )
    return config


def features_of(
    module: dict[str, Any], batch: Batch, budget: Budget, config: ModelConfig
) -> tuple[jax.Array, Any]:
    """(B, V before, d) features, zeros at dropped tokens, and the ViT's output."""
    vision = encode(module["vit"], module["scorer"], batch, budget, config, KEY)
    pooling = batch.token_pooling
    rows = pooling.shape[0]
    keep = take_rows(vision.plan.keep_patches.reshape(rows, -1), pooling, fill=False).any(-1)
    chosen, inverse = static_nonzero(keep, budget.visual)
    slots = take_rows(pooling, chosen, fill=-1)
    projected = module["connector"](vision.plan.layout.lookup(vision.features, slots), slots >= 0)
    return jnp.where(keep[..., None], take_rows(projected, inverse), 0), (vision, keep)


@partial(jax.jit, static_argnums=(3, 4))
def loss_and_gradients(
    module: dict[str, Any],
    batch: Batch,
    weights: jax.Array,
    budget: Budget,
    config: ModelConfig,
) -> Any:
    """The recorded loss, (features * R).sum() + auxiliary loss, with everything beside it."""

    def loss(module: dict[str, Any]) -> tuple[jax.Array, Any]:
        features, more = features_of(module, batch, budget, config)
        vision, _ = more
        return (features * weights).sum() + vision.temporal_loss, (features, more)

    return jax.value_and_grad(loss, has_aux=True)(module)


@dataclass(frozen=True)
class Tokens:
    """Our scores and what was kept (B, T, P); of each frame (B, T) what selection goes by."""

    scores: np.ndarray
    keep: np.ndarray
    prunable: np.ndarray
    first: np.ndarray
    example: np.ndarray


def tokens_of(vision: VisionOutput, rows: int, frames: int) -> Tokens:
    """Returns those of the recorded rows and frames, without what they are padded with."""
    table = vision.frames
    arrays = (vision.scores, vision.plan.keep, table.prunable, table.first, table.example)
    return Tokens(*(np.asarray(array)[:rows, :frames] for array in arrays))


def recorded_keep(found: Tokens, mask: np.ndarray) -> np.ndarray:
    """Returns (B, T, P) bool, what the reference kept, of the recorded (prunable frames * P,)."""
    keep = found.keep.copy()
    if found.prunable.any():
        keep[found.prunable] = mask.reshape(found.prunable.sum(), -1)
    return keep


def assert_tied(found: Tokens, scores: np.ndarray, different: np.ndarray) -> None:
    """Asserts that in each video the tokens that one side alone keeps have one and the same score.

    Args:
      found: ours.
      scores: (B, T, P), recorded.
      different: (B, T, P) bool, tokens that one side alone keeps.
    """
    rated = np.where(found.first[..., None], PROTECTED_SCORE, scores)
    for row, video in {(r, int(found.example[r, t])) for r, t, _ in np.argwhere(different)}:
        in_video = different[row] & (found.example[row] == video)[:, None]
        assert len(set(rated[row][in_video].tolist())) == 1


def keeps_any(case: dict[str, np.ndarray], keep: np.ndarray, grid: int) -> np.ndarray:
    """Returns (B, V) bool: visual tokens with a kept patch, of kept pooled tokens (B, T, P)."""
    patches = np.asarray(to_patches(jnp.asarray(keep), grid, pooling=3)).reshape(len(keep), -1)
    pooling = case["token_pooling"]
    filled = pooling >= 0
    return (np.take_along_axis(patches[:, None], np.where(filled, pooling, 0), 2) & filled).any(-1)


BACKBONES = [
    (path, ratio) for path in cases("backbone_*_*.npz") for ratio in ("topk0.3", "topk0.6")
]


def alike(config: ModelConfig, ratio: str) -> list[Path]:
    """Returns the cases of this ratio that have the same configuration."""

    def same(path: Path) -> bool:
        case = load(path)
        return backbone_config(case, under(case, f"{ratio}/eval/")["cfg_topk"]) == config

    return [path for path, other in BACKBONES if other == ratio and same(path)]


@pytest.mark.parametrize(
    ("path", "ratio"), BACKBONES, ids=[f"{path.stem}-{ratio}" for path, ratio in BACKBONES]
)
def test_parity_backbone_and_its_gradients(path: Path, ratio: str, worst_error: Any) -> None:
    """Several rows are compared in evaluation only: the reference cannot train on them.

    Where the cut falls between equal scores, which of them go is arbitrary: then the features of
    frames that keep other tokens than the reference's are left out, and so are all gradients.
    """
    case = load(path)
    recorded = under(case, f"{ratio}/eval/")
    trained = under(case, f"{ratio}/train/")
    config = backbone_config(case, recorded["cfg_topk"])
    names = backbone_names(config)

    def make() -> dict[str, Any]:
        return {
            "vit": VisionTransformer(config.vit, key=KEY),
            "scorer": token_scorer(config, key=KEY),
            "connector": Connector(config, key=KEY),
        }

    module = from_native(jax.eval_shape(make), weights("_".join(path.stem.split("_")[:2])), names)
    batch, budget = same_sizes(case, VISUAL_FIELDS, alike(config, ratio), config)
    name = f"{path.stem} {ratio}"
    weighting = np.zeros((*batch.token_pooling.shape[:2], config.llm.width), np.float32)
    (_, (features, (vision, keep))), _ = loss_and_gradients(
        module, batch, weighting, budget, config
    )
    rows, visual = case["token_pooling"].shape[:2]
    kept_of_all, kept = np.asarray(keep), np.asarray(keep)[:rows, :visual]
    assert kept_of_all.sum() == kept.sum(), "padding is not kept"
    found = tokens_of(vision, *case["images"].shape[:2])
    scores = recorded["scores"].reshape(found.scores.shape)
    # Rows don't see each other: what their first frames follow differs, and nothing uses it.
    used = np.ones(scores.shape[:2], bool)
    used[1:, 0] = False
    error = worst(found.scores[used], scores[used])
    worst_error.add(name, "scores", error, SCORES)
    assert error <= SCORES
    if trained:
        error = worst(vision.temporal_loss, trained["aux_loss"].reshape(()))
        worst_error.add(name, "temporal loss", error, LOSS)
        assert error <= LOSS

    theirs = recorded_keep(found, recorded.get("prunable_valid_mask", np.ones(0, bool)))
    different = found.keep != theirs
    if different.any():
        assert_tied(found, scores, different)
        worst_error.only_counted(name, TIE)
    kept_there = keeps_any(case, theirs, config.vit.grid)
    assert kept.sum() == kept_there.sum() == len(recorded["features"])
    same_frame = np.broadcast_to(~different.any(-1, keepdims=True), different.shape)
    comparable = keeps_any(case, same_frame, config.vit.grid)
    ours = np.asarray(features)[:rows, :visual][kept & comparable]
    error = worst(ours, recorded["features"][comparable[kept_there]])
    worst_error.add(name, "features", error, FEATURES)
    assert error <= FEATURES
    if not trained or different.any():
        return

    weighting[kept_of_all] = trained["R"]
    (loss, _), gradients = loss_and_gradients(module, batch, weighting, budget, config)
    # Features are summed with both signs, so the loss is exact only as far as they are.
    error = abs(float(loss) - float(trained["loss"])) / np.abs(trained["R"]).sum()
    worst_error.add(name, "loss", error, LOSS)
    assert error <= LOSS
    ours = to_native(gradients, names)
    norms = json.loads(str(trained["grad_norms"]))
    errors = worst_gradient(ours, under(trained, "grad/"), norms)
    for what, error in zip(("gradients", "gradient norms"), errors, strict=True):
        worst_error.add(name, what, error, GRADIENTS)
        assert error <= GRADIENTS
