"""ViT, pruning and connector together equal the recorded reference, forward and backward."""

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
from reference_cases import (
    KEY,
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
from stts_jax.budget import Budget
from stts_jax.config import ConnectorConfig, LlmConfig, ModelConfig
from stts_jax.layers.gather import static_nonzero, take_rows
from stts_jax.model.connector import Connector
from stts_jax.model.video_language_model import token_scorer
from stts_jax.model.vision import encode, frames_of
from stts_jax.model.vit import VisionTransformer

# Worst seen: features 2.7e-6, loss 1.3e-7, gradients 1.8e-5, their norms 8.9e-5 (relative).
FEATURES = 2e-5
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
    module: dict[str, Any], batch: dict[str, jax.Array], budget: Budget, config: ModelConfig
) -> tuple[jax.Array, Any]:
    """(B, V before, d) features, zeros at dropped tokens, and the ViT's output."""
    vision = encode(
        module["vit"],
        module["scorer"],
        batch["images"],
        frames_of(batch, config),
        budget,
        config,
        dtype=jnp.dtype(jnp.float32),
        key=KEY,
    )
    pooling = batch["token_pooling"]
    rows = pooling.shape[0]
    keep = take_rows(vision.plan.keep_patches.reshape(rows, -1), pooling, fill=False).any(-1)
    chosen, inverse = static_nonzero(keep, budget.visual)
    slots = take_rows(pooling, chosen, fill=-1)
    projected = module["connector"](vision.plan.layout.lookup(vision.features, slots), slots >= 0)
    return jnp.where(keep[..., None], take_rows(projected, inverse), 0), (vision, keep)


@partial(jax.jit, static_argnums=(3, 4))
def loss_and_gradients(
    module: dict[str, Any],
    batch: dict[str, jax.Array],
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
    """Several rows are compared in evaluation only: the reference cannot train on them."""
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
    names_of_inputs = ("images", "num_images", "multimodal_type", "token_pooling")
    batch, budget = same_sizes(case, names_of_inputs, alike(config, ratio), config)
    kept = np.zeros(batch["token_pooling"].shape[:2], bool)
    name = f"{path.stem} {ratio}"
    weighting = np.zeros((*kept.shape, config.llm.width), np.float32)
    (_, (features, (_, keep))), _ = loss_and_gradients(module, batch, weighting, budget, config)
    kept = np.asarray(keep)
    assert kept.sum() == len(recorded["features"])
    error = worst(np.asarray(features)[kept], recorded["features"])
    worst_error.add(name, "features", error, FEATURES)
    assert error <= FEATURES
    if not trained:
        return

    weighting[kept] = trained["R"]
    (loss, (_, (vision, _))), gradients = loss_and_gradients(
        module, batch, weighting, budget, config
    )
    error = worst(vision.temporal_loss, trained["aux_loss"].reshape(()))
    worst_error.add(name, "temporal loss", error, LOSS)
    assert error <= LOSS
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
