"""Rotary position embedding, half-split convention, with YaRN on a subset of layers."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from stts_jax.config import LlmConfig, YarnConfig


def rotary_tables(config: LlmConfig) -> tuple[np.ndarray, np.ndarray]:
    """Returns inverse frequencies and magnitudes of every layer.

    Source: olmo/nn/llm.py `RotaryEmbedding` (plain and YaRN); docs/reference.md#language-models.

    Returns:
      frequencies (layers, head_dim / 2) float32, radians per position.
      magnitudes (layers,) float32, factor of cos and sin (1 where there is no YaRN).
    """
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float32) / config.head_dim
    plain = (1.0 / (config.rope_theta**exponents)).astype(np.float32)
    frequencies = np.tile(plain, (config.layers, 1))
    magnitudes = np.ones(config.layers, np.float32)
    if config.yarn is not None:
        layers = list(config.yarn.layers)
        frequencies[layers] = _yarn_frequencies(plain, config.yarn, config)
        magnitudes[layers] = config.yarn.attention_factor or 0.1 * math.log(config.yarn.factor) + 1
    return frequencies, magnitudes


def _yarn_frequencies(plain: np.ndarray, yarn: YarnConfig, config: LlmConfig) -> np.ndarray:
    def dimension_of(rotations: float) -> float:
        period = yarn.original_length / (rotations * 2 * math.pi)
        return config.head_dim * math.log(period) / (2 * math.log(config.rope_theta))

    low = max(math.floor(dimension_of(yarn.beta_fast)), 0)
    high = min(math.ceil(dimension_of(yarn.beta_slow)), config.head_dim - 1)
    steps = np.arange(config.head_dim // 2, dtype=np.float32)
    ramp = np.clip((steps - low) / max(high - low, 0.001), 0.0, 1.0)
    return plain / yarn.factor * ramp + plain * (1 - ramp)


def apply_rope(
    x: jax.Array, positions: jax.Array, frequencies: jax.Array, magnitude: jax.Array
) -> jax.Array:
    """Rotates each pair (j, j + head_dim / 2) of `x` by its position; computed in float32.

    Args:
      x: (B, L, H, head_dim) queries or keys.
      positions: (B, L) int.
      frequencies: (head_dim / 2,).
      magnitude: scalar factor of cos and sin.
    """
    angles = positions[..., None, None].astype(jnp.float32) * frequencies
    cos, sin = jnp.cos(angles) * magnitude, jnp.sin(angles) * magnitude
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x.dtype)
