"""Answers of videos that keep what scores above a threshold, in the smallest size that holds it.

One program runs the blocks up to the drop, counts what stays of each row, and goes on in one of a
few size buckets (`jax.lax.switch`): nothing returns to the host in between.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Int

from stts_jax.batch import Batch
from stts_jax.budget import Budget
from stts_jax.inference.cpu_programs import jit_to_answer
from stts_jax.inference.decoding import decode, start_decoding
from stts_jax.inference.sampling import Sampling
from stts_jax.model.video_language_model import VideoLanguageModel, vision_encoder
from stts_jax.model.vision import ScoredFrames
from stts_jax.parallel.mesh import mesh_of, on_mesh
from stts_jax.pruning.adaptive import bucket_index
from stts_jax.size_buckets import adaptive_budgets


def generate_adaptive(
    model: VideoLanguageModel,
    batch: Batch,
    budget: Budget,
    *,
    max_new_tokens: int,
    end_token: int,
    sampling: Sampling,
    key: jax.Array,
) -> tuple[Int[Array, "B new_tokens"], Int[Array, " B"]]:
    """Answers every row of a batch of prompts by a model with `prune.threshold`.

    All rows of the batch go on in the same bucket, that of the row that keeps most.

    Args:
      model: the model; the others are those of `generate`, with the `budget` of rows of which
        nothing is dropped.

    Returns:
      what `generate` returns, and (B,) int32, the visual tokens that were left of each row.
    """
    mesh = mesh_of(model)
    return _generate(model, batch, budget, max_new_tokens, end_token, sampling, mesh, key)


@partial(jit_to_answer, static_argnums=(2, 3, 4, 5, 6))
def _generate(
    model: VideoLanguageModel,
    batch: Batch,
    budget: Budget,
    max_new_tokens: int,
    end_token: int,
    sampling: Sampling,
    mesh: Mesh | None,
    key: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    with on_mesh(mesh):
        scored = vision_encoder(model).score(batch, key=key)
        budgets, bucket, visual = choose_bucket(model, batch, budget, scored)

        def in_bucket(own: Budget) -> jax.Array:
            state = start_decoding(
                model, batch, own, max_new_tokens, end_token, sampling, key, scored
            )
            return decode(model, state, max_new_tokens, end_token, sampling)

        branches = [partial(in_bucket, own) for own in budgets]
        tokens: jax.Array = jax.lax.switch(bucket, branches)
        return tokens, visual


def choose_bucket(
    model: VideoLanguageModel, batch: Batch, budget: Budget, scored: ScoredFrames
) -> tuple[tuple[Budget, ...], Int[Array, ""], Int[Array, " B"]]:
    """Returns the size buckets, the index of the smallest that holds what stays, and its counts.

    Args:
      model: with `prune.threshold`.
      batch: see `Batch`.
      budget: of rows of which nothing is dropped.
      scored: the frames of the batch.

    Returns:
      budgets of ascending size; () int32; (B,) int32, the visual tokens that stay of each row.
    """
    visual, patches = _kept(batch, scored, model.config.prune.pooling)
    budgets = adaptive_budgets(budget, model.config.vit.patches)
    bucket = jnp.maximum(
        bucket_index(visual, [own.visual for own in budgets]),
        bucket_index(patches, [own.patches for own in budgets]),
    )
    return budgets, bucket, visual


def _kept(
    batch: Batch, scored: ScoredFrames, pooling: int
) -> tuple[Int[Array, " B"], Int[Array, " B"]]:
    """Returns the visual tokens and the patches that stay of each row."""
    dropped = scored.frames.to_prune.sum(1)
    visual = (batch.token_pooling >= 0).any(-1).sum(1) - dropped
    patches = scored.frames.real.sum(1) * scored.x.shape[2] - dropped * pooling**2
    return visual.astype(jnp.int32), patches.astype(jnp.int32)
