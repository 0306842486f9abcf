"""SigLIP vision transformer (olmo/nn/image_vit.py; docs/reference.md#vision-tower)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Num

from stts_jax.config import VitConfig
from stts_jax.layers.linear import Linear
from stts_jax.layers.mlp import GeluMlp
from stts_jax.layers.multi_head import Attend, MultiHeadAttention
from stts_jax.layers.norms import LayerNorm
from stts_jax.parallel.mesh import shard_activations
from stts_jax.parallel.parameters import parameter, stack
from stts_jax.pruning.layout import Layout


class VitBlock(nnx.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, config: VitConfig, *, key: jax.Array) -> None:
        keys = jax.random.split(key, 4)
        width = config.width
        self.attention_norm = LayerNorm(width, config.norm_epsilon, key=keys[0])
        self.attention = MultiHeadAttention(
            width, width, config.heads, config.head_dim, key=keys[1]
        )
        self.mlp_norm = LayerNorm(width, config.norm_epsilon, key=keys[2])
        self.mlp = GeluMlp(width, config.mlp_width, key=keys[3])

    def __call__(self, x: Float[Array, "*batch D"], attend: Attend) -> Float[Array, "*batch D"]:
        """Runs the block: (..., D) -> (..., D); `attend` mixes the patches."""
        normed = self.attention_norm(x)
        x = x + self.attention(normed, normed, attend)
        return x + self.mlp(self.mlp_norm(x))


POSITION_DEVIATION = 1.0


def sine_positions(key: jax.Array, shape: Sequence[int], dtype: DTypeLike) -> jax.Array:
    """Returns initial position embeddings: sines and cosines of row and column.

    Patches that are pooled together start with similar embeddings, distinct from those of others.
    Source: posemb_sincos_2d of big_vision (arXiv 2205.01580).

    Args:
      key: unused.
      shape: (positions, width) of a square grid; a width that 4 doesn't divide ends with zeros.
      dtype: of the result.
    """
    positions, width = shape
    side, count = round(positions**0.5), width // 4
    frequencies = 1.0 / 100.0 ** (np.arange(count) / max(count - 1, 1))
    rows, columns = np.divmod(np.arange(positions), side)
    angles = [position[:, None] * frequencies for position in (columns, rows)]
    table = np.concatenate([f(angle) for angle in angles for f in (np.sin, np.cos)], axis=1)
    # The mean over patches carries no position. The rest must be about as large as the embedded
    # pixels: with half of this deviation some models of the demo learn the positions in an image
    # from the order of its tokens, which says nothing about positions in a video.
    table = table - table.mean(0)
    table = POSITION_DEVIATION * table / np.maximum(table.std(0), 1e-3)
    return jnp.asarray(np.pad(table, ((0, 0), (0, width - table.shape[1]))), dtype)


class VisionTransformer(nnx.Module):
    """Patch embedding, learned positions and the blocks up to the deepest feature layer."""

    def __init__(self, config: VitConfig, *, key: jax.Array) -> None:
        keys = jax.random.split(key, 3)
        self.config = config
        self.patch_embedding = Linear(
            config.patch_dim, config.width, axes=("patch", "embed"), key=keys[0]
        )
        self.position_embedding = parameter(
            sine_positions,
            keys[1],
            (config.positions, config.width),
            (None, "embed"),
        )
        self.blocks = stack(lambda k: VitBlock(config, key=k), keys[2], config.depth)

    def embed(
        self, images: Num[Array, "B T N patch_dim"], dtype: DTypeLike
    ) -> Float[Array, "B T N D"]:
        """Embeds pixels as patches.

        Args:
          images: (B, T, N, patch_dim); uint8, or float in [-1, 1] if already normalised.
          dtype: to compute in.

        Returns:
          (B, T, N, D).
        """
        if images.dtype == jnp.uint8:
            images = images.astype(jnp.float32) / 255.0 * 2.0 - 1.0
        positions = resize_positions(self.position_embedding[...], images.shape[-2])
        return self.patch_embedding(images.astype(dtype)) + positions.astype(dtype)

    def run(
        self, x: Float[Array, "... D"], first: int, stop: int, layout: Layout, *, remat: bool
    ) -> tuple[jax.Array, dict[int, jax.Array]]:
        """Runs the blocks `first` to `stop - 1`.

        Args:
          x: patches, in `layout`.
          first: the first block.
          stop: the block after the last one.
          layout: of the patches; decides which attend to each other.
          remat: whether the backward pass recomputes each block's activations.

        Returns:
          the last output, and the outputs of the feature layers among these blocks by index.
        """
        wanted = [i + 1 for i in self.config.resolved_feature_layers if first <= i < stop]
        features: dict[int, jax.Array] = {}
        for upto in sorted({*wanted, stop}):
            x = self._scan(x, first, upto, layout, remat)
            if upto in wanted:
                features[upto - 1] = x
            first = upto
        return x, features

    def _scan(self, x: jax.Array, first: int, stop: int, layout: Layout, remat: bool) -> jax.Array:
        if first == stop:
            return x
        shape = x.shape

        # Blocks run on (B, T * N, D): 729 patches of a frame alone would be padded to whole tiles.
        # Only attention needs the frames.
        def flat(x: jax.Array) -> jax.Array:
            return x.reshape(x.shape[0], -1, *x.shape[len(shape) - 1 :])

        def framed(x: jax.Array) -> jax.Array:
            return x.reshape(x.shape[0], *shape[1:-1], *x.shape[2:])

        def sharded(x: jax.Array) -> jax.Array:
            return flat(shard_activations(framed(x)))

        def step(block: VitBlock, x: jax.Array, layout: Layout) -> jax.Array:
            def attend(*arrays: jax.Array) -> jax.Array:
                return flat(layout.attend(*map(framed, arrays)))

            return sharded(block(sharded(x), attend))

        run = jax.checkpoint(step) if remat else step

        def body(x: jax.Array, block: VitBlock) -> tuple[jax.Array, None]:
            return layout.apply_block(run, block, x), None

        blocks = jax.tree.map(lambda leaf: leaf[first:stop], self.blocks)
        return framed(jax.lax.scan(body, flat(x), blocks)[0])

    def concatenate(self, features: dict[int, jax.Array]) -> jax.Array:
        """Concatenates the feature layers, in the configured order."""
        return jnp.concatenate([features[i] for i in self.config.resolved_feature_layers], axis=-1)


def resize_positions(table: Float[Array, "positions D"], patches: int) -> Float[Array, "N D"]:
    """Resizes a position table to another grid, bicubic with antialiasing.

    Torch's antialiased kernel, for which a = -0.5.

    Args:
      table: (positions, D) of a square grid.
      patches: N of the wanted square grid.
    """
    if table.shape[0] == patches:
        return table
    old, new = math.isqrt(table.shape[0]), math.isqrt(patches)
    grid = table.reshape(old, old, -1)
    shape: Sequence[int] = (new, new, grid.shape[-1])
    resized = jax.image.resize(grid, shape, "bicubic", antialias=True)
    return resized.reshape(patches, -1)
