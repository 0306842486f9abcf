"""Helpers for tests of the model."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from stts_jax.batch import TextRows
from stts_jax.model.video_language_model import VideoLanguageModel
from stts_jax.training.token_loss import token_loss

# Worst seen: logits 5e-7, loss 0, gradients 2e-5, features 3e-7 (relative to the largest value).
LOGITS = 2e-5
FEATURES = 2e-5
PACKINGS = ("stream", "first_fit")
Z_LOSS = 1e-4


def total_loss(model: Any, hidden: jax.Array, text: TextRows, auxiliary: jax.Array) -> jax.Array:
    sums = token_loss(hidden, text.labels, text.loss_masks, model.llm.logits, Z_LOSS)
    return (sums["cross_entropy"] + sums["z_loss"]) / jnp.maximum(sums["weight"], 1e-6) + auxiliary


def loss_and_more(model: VideoLanguageModel, batch: Any, budget: Any, key: Any, train: bool) -> Any:
    """The loss; logits and what went into the LLM beside it."""
    hidden, fused = model(batch, budget, key=key, train=train)
    loss = total_loss(model, hidden, fused.text, fused.vision.temporal_loss)
    return loss, (model.llm.logits(hidden), fused)


forward = jax.jit(loss_and_more, static_argnums=(2, 4))
with_gradients = jax.jit(jax.value_and_grad(loss_and_more, has_aux=True), static_argnums=(2, 4))
