"""The counts that are known before the forward pass, and the static sizes made of them.

How many tokens of a video go depends only on its number of frames; which ones is data. So the
data pipeline can fill rows to a `Budget`, and the model compiles once for that budget. The
functions here use only operations that NumPy arrays and JAX arrays share, so that the pipeline
and the compiled model run the same lines.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from stts_jax.config import DataConfig, ModelConfig, PruneConfig

# Added to the subsegment ids of each further example of a row (olmo/data/dynamic_packer.py).
EXAMPLE_SUBSEGMENT_INCREMENT = 100000


class MultimodalType(enum.IntEnum):
    """Types of an example, numbered as in the reference; only videos are pruned. -1 pads."""

    TEXT = 0
    IMAGE = 1
    VIDEO = 2
    MULTI_IMAGE = 3


def tokens_to_prune(
    num_images: Any, multimodal_type: Any, prune: PruneConfig, tokens_per_frame: int
) -> Any:
    """Returns k, the pooled tokens to drop of each example.

    The product is taken in float32 and cut towards zero: weights were trained with that count, and
    double precision gives another one (topk 0.7, 30 frames: 1701 against 1700).
    Source: olmo/nn/temporal_image_vit.py, `forward_with_scorer`.

    Args:
      num_images: frames of each example, any shape, -1 where there is none.
      multimodal_type: `MultimodalType` of each example, same shape.
      prune: the setup.
      tokens_per_frame: P.

    Returns:
      int32 array of the same shape, 0 for everything that is no video.
    """
    if prune.method == "none":
        return (num_images * 0).astype(np.int32)
    per_frame = np.float32(tokens_per_frame * prune.topk)
    frames = num_images - prune.prune_from_frame
    count = (per_frame * frames.astype(np.float32)).astype(np.int32)
    is_video = multimodal_type == int(MultimodalType.VIDEO)
    count = count * (is_video & (frames > 0)).astype(np.int32)
    limit = num_images - int(prune.protect_first_frame)
    return count.clip(0, (tokens_per_frame * limit).clip(0).astype(np.int32))


@dataclass(frozen=True)
class Budget:
    """Static sizes of one row. The packer fills them, the model is compiled for them.

    Attributes:
      frames: T, frames (or crops) of the row.
      examples: M, examples packed into the row.
      patches: S, patches that survive the prune.
      visual: V, pooled visual tokens that survive.
      visual_before: pooled visual tokens before the prune.
      tokens: L, text and visual tokens that the LLM sees.
      tokens_before: text and visual tokens before the prune.
    """

    frames: int
    examples: int
    patches: int
    visual: int
    visual_before: int
    tokens: int
    tokens_before: int

    @property
    def text(self) -> int:
        """Returns the room for text when the visual budget is full."""
        return self.tokens - self.visual


def surviving_tokens(frames: int, model: ModelConfig) -> int:
    """Returns the pooled tokens that stay of one video of `frames` frames."""
    n = np.array([frames], np.int32)
    video = np.full_like(n, MultimodalType.VIDEO)
    tokens_per_frame = model.tokens_per_frame
    k = int(tokens_to_prune(n, video, model.prune, tokens_per_frame)[0])
    return frames * tokens_per_frame - k


def surviving_patches(frames: int, model: ModelConfig) -> int:
    """Returns the patches that stay in the ViT of one video of `frames` frames."""
    if not model.prune.in_vit:
        return frames * model.vit.patches
    return surviving_tokens(frames, model) * model.prune.pooling**2


def video_budget(model: ModelConfig, *, frames: int, videos: int, text_tokens: int) -> Budget:
    """Returns the budget of a row that holds `videos` videos of `frames` frames each.

    Args:
      model: sizes and prune ratio.
      frames: frames of each video.
      videos: videos in the row.
      text_tokens: tokens of the row that are no pooled visual tokens.
    """
    visual_before = videos * frames * model.tokens_per_frame
    visual = videos * surviving_tokens(frames, model)
    return Budget(
        frames=videos * frames,
        examples=videos,
        patches=videos * surviving_patches(frames, model),
        visual=visual,
        visual_before=visual_before,
        tokens=visual + text_tokens,
        tokens_before=visual_before + text_tokens,
    )


def row_budget(model: ModelConfig, data: DataConfig) -> Budget:
    """Returns the budget of a training row: `row_frames` frames in at most `row_examples` videos.

    Sized for videos of equal length. Other splits may leave a few tokens more (each count is cut
    towards zero on its own); the packer counts them, and such a video goes to the next row.
    """
    longest = min(data.max_frames, data.row_frames)
    even = min(-(-data.row_frames // data.row_examples), longest)
    full, rest = divmod(data.row_frames, even)
    split = [even] * min(full, data.row_examples)
    if rest and len(split) < data.row_examples:
        split.append(rest)
    visual = max(sum(surviving_tokens(n, model) for n in split), surviving_tokens(longest, model))
    patches = max(
        sum(surviving_patches(n, model) for n in split), surviving_patches(longest, model)
    )
    visual_before = data.row_frames * model.tokens_per_frame
    return Budget(
        frames=data.row_frames,
        examples=data.row_examples,
        patches=patches,
        visual=visual,
        visual_before=visual_before,
        tokens=visual + data.row_text_tokens,
        tokens_before=visual_before + data.row_text_tokens,
    )


def batch_arrays(
    budget: Budget, model: ModelConfig, rows: int
) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Returns shape and dtype of every array of a batch by name: the fields of `Batch`."""
    entries = max(model.prune.pooling, model.connector.image_pooling) ** 2
    tokens = (rows, budget.tokens_before)
    examples = (rows, budget.examples)
    int32, float32 = np.dtype(np.int32), np.dtype(np.float32)
    return {
        "images": (
            (rows, budget.frames, model.vit.patches, model.vit.patch_dim),
            np.dtype(np.uint8),
        ),
        "num_images": (examples, int32),
        "multimodal_type": (examples, int32),
        "token_pooling": ((rows, budget.visual_before, entries), int32),
        "input_ids": (tokens, int32),
        "labels": (tokens, int32),
        "loss_masks": (tokens, float32),
        "position_ids": (tokens, int32),
        "subsegment_ids": (tokens, int32),
    }


def batch_bytes(budget: Budget, model: ModelConfig, rows: int) -> int:
    """Returns the bytes of a batch of `rows` rows."""
    arrays = batch_arrays(budget, model, rows).values()
    return sum(math.prod(shape) * dtype.itemsize for shape, dtype in arrays)
