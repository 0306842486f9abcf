"""Video rows through the ViT: score, keep, gather, and on with what is kept."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from stts_jax.budget import Budget
from stts_jax.config import ModelConfig
from stts_jax.layers.attention.stream_windows import TILE
from stts_jax.model.vit import VisionTransformer
from stts_jax.pruning.baselines import easy_ratings, heuristic_ratings, random_ratings
from stts_jax.pruning.cells import to_patches
from stts_jax.pruning.first_fit import bin_ladder, first_fit_layout
from stts_jax.pruning.frames import FrameTable, frame_table
from stts_jax.pruning.layout import DenseLayout, Layout, stream_layout
from stts_jax.pruning.scorer import TokenScorer, log_score_bias
from stts_jax.pruning.selection import protect_first_frames, select
from stts_jax.pruning.temporal_loss import temporal_loss


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class VisionOutput:
    """What the ViT leaves behind.

    Attributes:
      features: feature layers side by side, laid out by `layout`.
      layout: where each patch lies in `features`.
      keep: (B, T, P) bool, pooled tokens that stay.
      keep_patches: (B, T, N) bool, the same for patches.
      scores: (B, T, P) float32 ratings that the tokens were selected by.
      auxiliary_loss: () float32, temporal loss, coefficient included.
      frames: the rows' frames.
    """

    features: jax.Array
    layout: Layout
    keep: jax.Array
    keep_patches: jax.Array
    scores: jax.Array
    auxiliary_loss: jax.Array
    frames: FrameTable


def encode(
    vit: VisionTransformer,
    scorer: TokenScorer | None,
    batch: dict[str, jax.Array],
    budget: Budget,
    config: ModelConfig,
    *,
    dtype: jnp.dtype,
    key: jax.Array,
) -> VisionOutput:
    """Run the rows' frames through the ViT and drop tokens on the way.

    Args:
      vit: the transformer.
      scorer: needed by method `scorer`.
      batch: `images`, `num_images` and `multimodal_type` of `budget.batch_arrays`.
      budget: static sizes.
      config: the model's configuration.
      dtype: what to compute in.
      key: for method `random`.
    """
    prune, remat = config.prune, config.remat == "blocks"
    x = vit.embed(batch["images"], dtype)
    frames = frame_table(
        batch["num_images"],
        batch["multimodal_type"],
        x.shape[1],
        prune,
        config.tokens_per_frame,
    )
    embedded, dense = x, DenseLayout()
    scored_after = vit.config.depth if prune.method == "none" else prune.prune_at + 1
    x, features = vit.run(x, 0, scored_after, dense, remat)
    after, auxiliary_loss = scored_after, jnp.zeros((), jnp.float32)

    if prune.method == "scorer":
        assert scorer is not None
        ratings = scorer(x)
        keep = select(protect_first_frames(ratings, frames), frames)
        auxiliary_loss = temporal_loss(
            ratings, x, frames, pooling=prune.pooling, coefficient=prune.loss_coefficient
        )
        if prune.topk > 0:
            bias = log_score_bias(
                ratings,
                frames,
                grid=vit.config.grid,
                pooling=prune.pooling,
                minimum=prune.rescale_bias_min,
            )
            dense = DenseLayout(key_bias=bias)
        x, more = vit.run(x, after, after + 1, dense, remat)
        features, after = features | more, after + 1
    else:
        ratings = _baseline_ratings(embedded, frames, config, key)
        keep = select(ratings, frames)

    keep_patches = to_patches(keep, vit.config.grid, prune.pooling)
    layout: Layout = dense
    if prune.drops_patches:
        layout = pack(keep_patches, budget, config)
        x = layout.gather(x)
        features = {index: layout.gather(feature) for index, feature in features.items()}
    _, more = vit.run(x, after, vit.config.depth, layout, remat)
    return VisionOutput(
        features=vit.concatenate(features | more),
        layout=layout,
        keep=keep,
        keep_patches=keep_patches,
        scores=ratings,
        auxiliary_loss=auxiliary_loss,
        frames=frames,
    )


def _baseline_ratings(
    x: jax.Array, frames: FrameTable, config: ModelConfig, key: jax.Array
) -> jax.Array:
    """(B, T, P) ratings by the method's name; all equal where nothing is pruned.

    Raises:
      ValueError: for a method that has none; equal ratings would pass for its.
    """
    prune = config.prune
    shape = (*x.shape[:2], config.tokens_per_frame)
    if prune.method == "heuristic":
        return heuristic_ratings(x, frames, prune.pooling, prune.new_reference_threshold)
    if prune.method == "easy":
        return easy_ratings(x, frames, prune.pooling, prune.new_reference_threshold)
    if prune.method == "random":
        return random_ratings(shape, key)
    if prune.method == "none":
        return jnp.ones(shape, jnp.float32)
    raise ValueError(f"model.prune.method '{prune.method}' is not one that the model computes")


def pack(keep_patches: jax.Array, budget: Budget, config: ModelConfig) -> Layout:
    """Where the kept patches go.

    Args:
      keep_patches: (B, T, N) bool.
      budget: static sizes; they fit.
      config: the model's configuration.

    Raises:
      ValueError: for a packing that there isn't.
    """
    rows, frames, patches = keep_patches.shape
    if config.prune.packing == "stream":
        # Whole tiles of memory, so that a TPU's kernel takes the stream as it is.
        return stream_layout(keep_patches, -(-budget.patches // TILE) * TILE)
    if config.prune.packing != "first_fit":
        raise ValueError(f"model.prune.packing '{config.prune.packing}' is not one of the model's")
    return first_fit_layout(keep_patches, bin_ladder(rows, frames, budget.patches, patches))
