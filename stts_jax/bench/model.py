"""The model of the benchmark, and a row for it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from stts_jax.batch import Batch
from stts_jax.budget import Budget, MultimodalType, batch_arrays, video_budget
from stts_jax.config import (
    Config,
    ConnectorConfig,
    LlmConfig,
    ModelConfig,
    PruneConfig,
    TrainConfig,
    VitConfig,
)

# Frame marks of each frame, and text around the video: a question before, an answer after it.
MARKS, TEXT = 2, 128
ANSWER = 32


def bench_config(ratio: float) -> Config:
    """Returns Molmo2-4B at a quarter of its widths and a third of its depths.

    Frames have 27 x 27 patches. Heads are as wide as the 4B's, so there are a quarter as many of
    them. Tokens are dropped after 2 of 9 blocks of the ViT, as they are after 5 of 25.

    Args:
      ratio: fraction of visual tokens that is dropped; 0 is without pruning and without a scorer.
    """
    model = ModelConfig(
        vit=VitConfig(
            width=288, heads=4, head_dim=72, mlp_width=1076, layers=9, feature_layers=(-1, -3)
        ),
        prune=PruneConfig(
            method="scorer" if ratio else "none", topk=ratio, prune_at=0, loss_coefficient=0.5
        ),
        connector=ConnectorConfig(heads=4, head_dim=72, width=288, mlp_width=2432),
        llm=LlmConfig(
            vocab_size=8192,
            extra_vocab_size=16,
            width=640,
            layers=12,
            heads=8,
            kv_heads=2,
            head_dim=128,
            mlp_width=2432,
        ),
        # float32 on a CPU, elsewhere bfloat16: attention's kernels of GPUs take nothing else.
        compute_dtype="auto",
        # The activations fit, and the peer doesn't recompute them either.
        remat="none",
    )
    return Config(name=f"bench_{round(100 * ratio)}", model=model, train=TrainConfig())


def small_config(ratio: float) -> Config:
    """Returns the same model in the smallest sizes, to see that everything runs."""
    config = bench_config(ratio)
    model = replace(
        config.model,
        vit=replace(
            config.model.vit,
            image_size=126,
            positions=81,
            width=32,
            heads=2,
            head_dim=16,
            mlp_width=48,
            layers=4,
        ),
        connector=replace(config.model.connector, heads=2, head_dim=16, width=32, mlp_width=48),
        llm=replace(
            config.model.llm, vocab_size=64, width=32, layers=2, heads=2, head_dim=16, mlp_width=48
        ),
    )
    return replace(config, model=model)


def bench_budget(config: Config, frames: int) -> Budget:
    """Returns the budget of one row of one video."""
    text = TEXT + MARKS * frames
    return video_budget(config.model, frames=frames, videos=1, text_tokens=text)


def bench_batch(
    config: Config,
    budget: Budget,
    seed: int = 0,
    *,
    frames: int | None = None,
    text: int = TEXT,
) -> Batch:
    """Returns one row of noise: a question, the frames, an answer with loss.

    Args:
      config: of the run.
      budget: of the row.
      seed: of the noise.
      frames: of the video; by default it fills the row.
      text: tokens of question and answer.
    """
    rng = np.random.default_rng(seed)
    model, frames = config.model, frames or budget.frames
    arrays = {
        name: np.zeros(shape, dtype)
        for name, (shape, dtype) in batch_arrays(budget, model, 1).items()
    }
    images = arrays["images"][:, :frames]
    # Each frame has its own mean, so that frames keep different numbers of tokens.
    means = rng.integers(40, 216, (1, frames, 1, 1))
    images[:] = (means + rng.integers(-40, 40, images.shape)).astype(np.uint8)
    arrays["num_images"][:] = frames
    arrays["multimodal_type"][:] = MultimodalType.VIDEO
    pooled = _pooled_patches(model.vit.grid, model.prune.pooling)
    shift = np.arange(frames)[:, None, None] * model.vit.patches
    arrays["token_pooling"][:] = -1
    arrays["token_pooling"][0, : frames * len(pooled)] = np.concatenate(pooled + shift)
    start, end, patch = (
        model.llm.special_token(name) for name in ("<frame_start>", "<frame_end>", "<im_patch>")
    )
    frame = [start, *[patch] * len(pooled), end]
    words = rng.integers(1, model.llm.vocab_size, text).tolist()
    ids = np.array([*words[:-ANSWER], *frame * frames, *words[-ANSWER:]])
    length = len(ids)
    arrays["input_ids"][:] = -1
    arrays["input_ids"][0, :length] = ids
    arrays["labels"][0, :length] = np.append(ids[1:], 1)
    arrays["loss_masks"][0, length - ANSWER : length] = 1.0
    arrays["position_ids"][0, :length] = np.arange(length)
    return Batch.from_arrays(arrays)


def _pooled_patches(grid: int, pooling: int) -> np.ndarray:
    """Returns the patches of each pooled token of a frame: (P, pooling^2)."""
    indices = np.arange(grid * grid).reshape(grid // pooling, pooling, grid // pooling, pooling)
    return indices.transpose(0, 2, 1, 3).reshape(-1, pooling**2)
