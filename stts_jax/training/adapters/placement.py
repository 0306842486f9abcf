"""Puts adapters around the layers of a model, and holds what is frozen in fewer bytes."""

from __future__ import annotations

import zlib
from typing import Any

import jax
import jax.numpy as jnp

from stts_jax.config import TrainConfig
from stts_jax.layers.lora import LoraLinear
from stts_jax.layers.replace_linears import replace_linears
from stts_jax.model.int8_weights import in_int8
from stts_jax.model.video_language_model import VideoLanguageModel
from stts_jax.parallel.parameters import named_parameters, replace_parameters
from stts_jax.training.adapters.names import target_of
from stts_jax.training.optimizer import is_trained


def adapted(model: VideoLanguageModel, config: TrainConfig, key: jax.Array) -> VideoLanguageModel:
    """Returns the model of a run: with new adapters, and its frozen parameters in their type.

    Args:
      model: float32.
      config: of the run; without `has_base` the model is returned.
      key: for the adapters.
    """
    if not config.has_base:
        return model
    lora, targets = config.lora, set(config.lora.layers)

    def replace(name: str, layer: Any) -> Any:
        if target_of(name) not in targets:
            return layer
        return LoraLinear(
            layer,
            rank=lora.rank,
            scale=lora.alpha / lora.rank,
            dropout=lora.dropout,
            # A layer's adapter is the same whichever others there are.
            key=jax.random.fold_in(key, zlib.crc32(name.encode())),
        )

    model = _with_frozen_types(replace_linears(model, replace), config)
    return in_int8(model) if config.frozen_weights == "int8" else model


def _with_frozen_types(model: VideoLanguageModel, config: TrainConfig) -> VideoLanguageModel:
    """Casts the frozen kernels and tables; all uses of them cast them anyway."""
    # ViT and LLM are quantised from what they are.
    parts = ("connector.",) if config.frozen_weights == "int8" else ("",)
    dtype = jnp.bfloat16 if config.frozen_weights == "bfloat16" else model.dtype
    named = named_parameters(model)
    cast = {
        name: leaf.astype(dtype)
        for name, leaf in named.items()
        if name.startswith(parts) and is_matrix(name) and not is_trained(name, config)
    }
    return replace_parameters(model, cast)


def is_matrix(name: str) -> bool:
    """Returns whether a parameter is a kernel, the embedding or the head."""
    return name.endswith(".kernel") or name in ("llm.embedding", "llm.head")
