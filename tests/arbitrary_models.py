"""Models with arbitrary parameters, made without compiling the initialisers."""

from __future__ import annotations

import jax
import numpy as np

from stts_jax.config import ModelConfig
from stts_jax.model.video_language_model import VideoLanguageModel


def arbitrary_parameters(abstract, seed: int):
    """A tree of shapes -> one of arrays, as large as the initialisers' would be.

    Biases and scales are not at 0 and 1, where a mistake could hide.
    """
    rng = np.random.default_rng(seed)

    def arbitrary(path, leaf):
        name = jax.tree_util.keystr(path)
        summed = -2 if "kernel" in name else -1  # the axis that products sum over
        size = 0.1 if "bias" in name or "scale" in name else leaf.shape[summed] ** -0.5
        mean = 1.0 if "scale" in name else 0.0
        return jax.device_put(mean + size * rng.standard_normal(leaf.shape, np.float32))

    return jax.tree_util.tree_map_with_path(arbitrary, abstract)


def arbitrary_model(config: ModelConfig, seed: int = 0) -> VideoLanguageModel:
    """A model of these sizes."""
    key = jax.random.key(0)
    return arbitrary_parameters(jax.eval_shape(lambda: VideoLanguageModel(config, key=key)), seed)
