"""The pruned ViT: scores the tokens of each frame, drops the worst, runs the rest."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Num

from stts_jax.batch import Batch
from stts_jax.budget import Budget, MultimodalType, tokens_to_prune
from stts_jax.config import ModelConfig
from stts_jax.model.vit import VisionTransformer
from stts_jax.parallel.platform import compute_dtype
from stts_jax.pruning.adaptive import below_threshold, share_in_row
from stts_jax.pruning.baselines import BaselineInputs, baseline_scores, merge_targets
from stts_jax.pruning.first_fit import bin_sizes, first_fit_layout
from stts_jax.pruning.frames import FrameTable, frame_table
from stts_jax.pruning.layout import DenseLayout, Layout
from stts_jax.pruning.plan import PruningPlan, make_plan
from stts_jax.pruning.score_bias import score_bias
from stts_jax.pruning.scorer import TokenScorer
from stts_jax.pruning.selection import protect_first_frames
from stts_jax.pruning.stream import stream_layout, stream_size
from stts_jax.pruning.temporal_loss import temporal_loss
from stts_jax.pytrees import register_pytree


@register_pytree
@dataclass(frozen=True)
class VisionOutput:
    """The result of the ViT.

    Attributes:
      features: (..., features), the feature layers concatenated, in `plan.layout`.
      plan: the patches that stay, and their layout.
      scores: (B, T, P) float32, by which tokens were selected.
      temporal_loss: () float32, coefficient included.
      frames: the frames of the rows.
    """

    features: Float[Array, "... features"]
    plan: PruningPlan
    scores: Float[Array, "B T P"]
    temporal_loss: Float[Array, ""]
    frames: FrameTable


@register_pytree
@dataclass(frozen=True)
class ScoredFrames:
    """The frames of rows after the blocks that have every patch.

    Attributes:
      x: (B, T, N, D).
      features: (B, T, N, D) of each feature layer so far, by its index.
      scores: (B, T, P) float32.
      ranked: (B, T, P), the scores by which tokens are selected: those of first frames are raised.
      dense: the layout of these blocks.
      temporal_loss: () float32, coefficient included.
      frames: the frames of the rows, with k of each example.
      targets: (B, T, P) int32, the window that each one merges into if it is dropped, or None.
    """

    x: Float[Array, "B T N D"]
    features: dict[int, Float[Array, "B T N D"]]
    scores: Float[Array, "B T P"]
    ranked: Float[Array, "B T P"]
    dense: DenseLayout
    temporal_loss: Float[Array, ""]
    frames: FrameTable
    targets: Int[Array, "B T P"] | None = None

    def below_threshold(
        self, config: ModelConfig, threshold: Float[Array, " B"] | None
    ) -> ScoredFrames:
        """Lets each example lose what scores below the threshold, if the model has one.

        Args:
          config: the model's configuration.
          threshold: of each row; None for the model's own.
        """
        if not config.prune.threshold:
            return self
        own = config.prune.threshold if threshold is None else threshold[:, None, None]
        return dataclasses.replace(self, frames=below_threshold(self.ranked, self.frames, own))


class VisionEncoder(nnx.Module):
    """ViT and scorer of a model, without what only answers need: connector and LLM.

    Attributes:
      vit, scorer: those of the model.
      config: the model's configuration.
    """

    def __init__(
        self, vit: VisionTransformer, scorer: TokenScorer | None, config: ModelConfig
    ) -> None:
        self.config = config
        self.vit = vit
        self.scorer = scorer

    def score(self, batch: Batch, *, key: jax.Array) -> ScoredFrames:
        """Runs the frames of a batch up to the drop; see `score`."""
        frames, dtype = frames_of(batch, self.config), compute_dtype(self.config.compute_dtype)
        scored = score(
            self.vit, self.scorer, batch.images, frames, self.config, dtype=dtype, key=key
        )
        return scored.below_threshold(self.config, batch.threshold)

    def __call__(self, batch: Batch, budget: Budget, *, key: jax.Array) -> VisionOutput:
        """Runs the frames of a batch and drops tokens between the blocks.

        Args:
          batch: its images and their examples.
          budget: static sizes.
          key: for method `random`.
        """
        return finish(self.vit, self.score(batch, key=key), budget, self.config)


def score(
    vit: VisionTransformer,
    scorer: TokenScorer | None,
    images: Num[Array, "B T N patch_dim"],
    frames: FrameTable,
    config: ModelConfig,
    *,
    dtype: DTypeLike,
    key: jax.Array,
) -> ScoredFrames:
    """Runs frames through the blocks up to the drop.

    Args:
      vit: the transformer.
      scorer: needed by method `scorer`.
      images: (B, T, N, patch_dim) pixels.
      frames: their examples, and k of each; see `frames_of`.
      config: the model's configuration.
      dtype: to compute in.
      key: for method `random`.
    """
    prune = config.prune
    embedded = vit.embed(images, dtype)
    run = partial(vit.run, remat=config.remat == "blocks")
    dense = DenseLayout()
    if prune.method != "scorer":
        x, features = run(embedded, 0, config.dense_blocks, dense)
        hidden = vit.concatenate(features) if prune.runs_whole_vit else x
        scores, targets = _baseline_scores(embedded, hidden, frames, config, key)
        loss = jnp.zeros((), jnp.float32)
        return ScoredFrames(x, features, scores, scores, dense, loss, frames, targets)
    assert scorer is not None
    x, features = run(embedded, 0, prune.prune_at + 1, dense)
    scores = scorer(x)
    loss = temporal_loss(
        scores, x, frames, pooling=prune.pooling, coefficient=prune.loss_coefficient
    )
    if prune.biases_keys:
        dense = DenseLayout(key_bias=_score_bias(scores, frames, config))
    x, more = run(x, prune.prune_at + 1, config.dense_blocks, dense)
    ranked = protect_first_frames(scores, frames)
    return ScoredFrames(x, features | more, scores, ranked, dense, loss, frames)


def finish(
    vit: VisionTransformer, scored: ScoredFrames, budget: Budget, config: ModelConfig
) -> VisionOutput:
    """Drops tokens, and runs the blocks after the drop on the rest.

    Args:
      vit: the transformer.
      scored: of `score`.
      budget: static sizes.
      config: the model's configuration.
    """
    x, features = scored.x, scored.features
    plan = plan_of(scored.ranked, scored.frames, budget, config, scored.dense, scored.targets)
    drops_patches = config.prune.drops_patches
    if drops_patches:
        x, features = jax.tree.map(lambda y: plan.layout.gather(plan.merge(y)), (x, features))
    remat = config.remat == "blocks"
    _, more = vit.run(x, config.dense_blocks, vit.config.depth, plan.layout, remat=remat)
    joined = vit.concatenate(features | more)
    if not drops_patches:
        joined = plan.merge(joined)
    return VisionOutput(joined, plan, scored.scores, scored.temporal_loss, scored.frames)


def frames_of(batch: Batch, config: ModelConfig) -> FrameTable:
    """Returns the frames of a batch, with k of each example: the pooled tokens that it loses.

    In a model that is trained over ratios, bias and temporal loss are there at every ratio.
    """
    num_images, kinds, to_prune = batch.num_images, batch.multimodal_type, batch.to_prune
    if to_prune is None:
        to_prune = tokens_to_prune(num_images, kinds, config.prune, config.tokens_per_frame)
    trained_over_ratios = bool(config.prune.train_ratios)
    prunable = kinds == int(MultimodalType.VIDEO) if trained_over_ratios else None
    return frame_table(num_images, to_prune, batch.images.shape[1], prunable)


def plan_of(
    scores: Float[Array, "B T P"],
    frames: FrameTable,
    budget: Budget,
    config: ModelConfig,
    dense: Layout,
    targets: Int[Array, "B T P"] | None = None,
) -> PruningPlan:
    """Returns the plan of a drop, in the configured layout.

    Args:
      scores: (B, T, P).
      frames: the frames of the rows.
      budget: static sizes; the kept patches fit.
      config: the model's configuration.
      dense: the layout before the drop, which stays where the ViT keeps every patch at any ratio.
      targets: (B, T, P) int32 of a method that merges, else None.
    """
    if config.prune.share == "row":
        frames = share_in_row(scores, frames)
    return make_plan(
        scores,
        frames,
        grid=config.vit.grid,
        pooling=config.prune.pooling,
        layout_of=partial(_layout, budget=budget, config=config, dense=dense),
        targets=targets,
    )


def _layout(
    keep_patches: jax.Array, *, budget: Budget, config: ModelConfig, dense: Layout
) -> Layout:
    rows, frames, patches = keep_patches.shape
    if not config.prune.in_vit:
        return dense
    if not config.prune.drops_patches:  # the bias ends with its block, as at any ratio
        return DenseLayout()
    if config.prune.layout == "stream":
        return stream_layout(keep_patches, stream_size(budget.patches))
    if config.prune.layout != "first_fit":
        raise ValueError(f"model.prune.layout '{config.prune.layout}' is not one of the model's")
    return first_fit_layout(keep_patches, bin_sizes(rows, frames, budget.patches, patches))


def _score_bias(scores: jax.Array, frames: FrameTable, config: ModelConfig) -> jax.Array:
    return score_bias(
        scores,
        frames,
        grid=config.vit.grid,
        pooling=config.prune.pooling,
        minimum=config.prune.rescale_bias_min,
    )


def _baseline_scores(
    embedded: jax.Array,
    hidden: jax.Array,
    frames: FrameTable,
    config: ModelConfig,
    key: jax.Array,
) -> tuple[jax.Array, jax.Array | None]:
    """Returns (B, T, P) scores of the configured baseline, all equal for method `none`.

    With them the windows that dropped ones merge into, None for a method that doesn't merge.
    """
    prune = config.prune
    if prune.method == "none":
        return jnp.ones((*embedded.shape[:2], config.tokens_per_frame), jnp.float32), None
    threshold = prune.new_reference_threshold
    inputs = BaselineInputs(embedded, frames, prune.pooling, threshold, key, hidden)
    return baseline_scores(prune.method, inputs), merge_targets(prune.method, inputs)
