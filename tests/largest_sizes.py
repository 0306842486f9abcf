"""The largest arrays that images and videos become, to compare with recorded sizes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from stts_jax.data.images.settings import ImageSettings
from stts_jax.data.images.tiling import all_tilings
from stts_jax.data.images.tokens import (
    _block,
    _crop_marks,
    _global_marks,
    _prefix,
)
from stts_jax.data.text.tokenizer import Tokenizer
from stts_jax.data.video.tokens import VideoPreprocessor


@dataclass(frozen=True)
class ImageSizes:
    """The largest sizes of the arrays of `ImageTokens`; of a group, of all its images together.

    Attributes:
      tokens: n, with the prefixes of a group.
      crops: c.
      pooled: V.
    """

    tokens: int
    crops: int
    pooled: int


def largest_sizes(settings: ImageSettings, tokenizer: Tokenizer) -> ImageSizes:
    """The most that one image can take, whatever its shape.

    It is tried out on every tiling. The reference tries three images of up to 10000 pixels a side,
    which are too small where there are more than about 30 crops, and forgets that training may
    draw the high resolution; both are fixed here.
    """
    global_grid = (settings.layout.side,) * 2
    global_shape = _pooled_shape(global_grid, settings)
    global_tokens = len(_block(global_shape, _global_marks(settings, tokenizer)))
    if settings.crop_mode == "resize":
        return ImageSizes(global_tokens, 1, math.prod(global_shape))
    max_crops = settings.max_crops
    if settings.p_high_res:
        max_crops = max(max_crops, settings.high_res_max_crops)
    grids = [settings.layout.grid_size(tiling) for tiling in all_tilings(max_crops)]
    shapes = [_pooled_shape(grid, settings) for grid in grids]
    marks = _crop_marks(settings, tokenizer)
    tokens, pooled = max(len(_block(shape, marks)) for shape in shapes), max(map(math.prod, shapes))
    if settings.crop_mode == "overlap-and-resize":
        return ImageSizes(tokens, max_crops, pooled)
    return ImageSizes(global_tokens + tokens, 1 + max_crops, math.prod(global_shape) + pooled)


def largest_group_sizes(settings: ImageSettings, tokenizer: Tokenizer) -> ImageSizes:
    """The most that a group of `settings.max_images` images can take."""
    count = settings.max_images
    one = largest_sizes(settings.for_group, tokenizer)
    prefixes = sum(len(tokenizer.encode(_prefix(number))) for number in range(1, count + 1))
    return ImageSizes(one.tokens * count + prefixes, one.crops * count, one.pooled * count)


@dataclass(frozen=True)
class VideoSizes:
    """The largest sizes of the arrays of a video's `VisionInput`, without subtitles.

    Attributes:
      tokens: n.
      frames: c.
      pooled: V.
    """

    tokens: int
    frames: int
    pooled: int


def largest_video_sizes(video: VideoPreprocessor) -> VideoSizes:
    """The most that a video takes: `max_frames` frames, 32.5 s apart, whose text is the longest.

    Source: docs/reference.md#frame-tokens.
    """
    frames = video.settings.max_frames
    tokens = video.token_ids(np.arange(frames) * 32.5)
    pooled = math.ceil(video.vit.grid / video.pooling) ** 2
    return VideoSizes(len(tokens), frames, frames * pooled)


def _pooled_shape(grid: tuple[int, int], settings: ImageSettings) -> tuple[int, int]:
    rows, columns = (-(-side // size) for side, size in zip(grid, settings.pooling, strict=True))
    return rows, columns
