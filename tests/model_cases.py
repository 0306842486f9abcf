"""The smallest model that has every part, and rows for it, shared by the tests of the model."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
from arbitrary_models import arbitrary_model
from random_batches import IMAGE, MULTI_IMAGE, TEXT, VIDEO, random_batch

from stts_jax.batch import Batch
from stts_jax.budget import Budget
from stts_jax.config import ConnectorConfig, LlmConfig, ModelConfig, PruneConfig, VitConfig, replace
from stts_jax.model.video_language_model import VideoLanguageModel, reconfigure

KEY = jax.random.key(0)
# Parameters of the published models: the LLM without its head, the connector, all;
# docs/reference.md#language-models.
SIZES = {
    "molmo2_4b": (4_022_795_776, 56_611_328, 4_461_913_040),
    "molmo2_8b": (7_568_929_792, 87_937_536, 8_661_703_120),
    "molmo2_o_7b": (6_887_796_736, 79_745_536, 7_760_786_896),
}
VIT = 382_505_936
ALL_KINDS = (VIDEO, VIDEO, IMAGE, MULTI_IMAGE, TEXT)
ROWS = 3

# Two feature layers, one on each side of the prune; images pool 2x2 on a grid that this doesn't
# divide, videos 3x3.
SMALL = ModelConfig(
    vit=VitConfig(
        image_size=36,
        patch_size=4,
        width=16,
        heads=2,
        head_dim=8,
        mlp_width=24,
        layers=4,
        feature_layers=(-1, -3),
        positions=81,
    ),
    prune=PruneConfig(method="scorer", topk=0.5, prune_at=0),
    connector=ConnectorConfig(heads=2, head_dim=8, width=16, mlp_width=24),
    llm=LlmConfig(
        vocab_size=64,
        extra_vocab_size=16,
        width=24,
        layers=2,
        heads=4,
        kv_heads=2,
        head_dim=8,
        mlp_width=32,
        rope_theta=1e4,
    ),
)
BUDGET = Budget(
    frames=6,
    examples=3,
    patches=400,
    visual=80,
    visual_before=120,
    tokens=160,
    tokens_before=200,
)


def small_model_config(**changes) -> ModelConfig:
    """`SMALL` with fields replaced; `__` stands for a dot."""
    return replace(SMALL, {key.replace("__", "."): value for key, value in changes.items()})


@cache
def _parameters(tied_head: bool) -> VideoLanguageModel:
    return arbitrary_model(small_model_config(llm__tied_head=tied_head), seed=2)


def small_model(config: ModelConfig = SMALL) -> VideoLanguageModel:
    """The same parameters under any configuration of the same sizes."""
    return reconfigure(_parameters(config.llm.tied_head), config)


@cache
def numpy_rows(config: ModelConfig = SMALL, seed: int = 0, **options) -> Batch:
    options.setdefault("kinds", ALL_KINDS)
    return random_batch(config, BUDGET, ROWS, seed, **options)


def rows(config: ModelConfig = SMALL, seed: int = 0, **options) -> Batch:
    """A batch of `ROWS` rows of `BUDGET`: videos, images and text packed together."""
    return on_device(numpy_rows(config, seed, **options))


def on_device(batch: Batch) -> Batch:
    return jax.tree.map(jnp.asarray, batch)
