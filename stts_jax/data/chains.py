"""Builds the example chain of a run's config."""

from __future__ import annotations

from stts_jax.config import Config, DataConfig
from stts_jax.data.example_chain import ExampleChain, ExampleSettings
from stts_jax.data.images.settings import ImageSettings
from stts_jax.data.media import MediaCache
from stts_jax.data.text.tokenizer import Tokenizer
from stts_jax.data.video.settings import VideoSettings

# Patches of a crop of 27 x 27 that its neighbours show too; in proportion for other grids.
MARGIN, MARGIN_GRID = 4, 27


def chain_of(
    config: Config,
    *,
    max_frames: int | None = None,
    p_high_res: float = 0.0,
    tokenizer: Tokenizer | None = None,
    remember: bool = True,
) -> ExampleChain:
    """Returns the chain that makes arrays of a run's examples.

    Args:
      config: of the run.
      max_frames: of a video, `data.max_frames` by default.
      p_high_res: probability of many crops of an image in training.
      tokenizer: of the run, if it is loaded already.
      remember: the video that was decoded last, or all of them where `data.cache_frames` says so.

    Raises:
      TokenizerError: see `Tokenizer.load`.
    """
    model, data = config.model, config.data
    margin = MARGIN * model.vit.grid // MARGIN_GRID
    pooling = (model.connector.image_pooling,) * 2
    images = ImageSettings(
        image_size=model.vit.image_size,
        patch_size=model.vit.patch_size,
        margins=(margin, margin),
        max_crops=data.max_crops,
        max_group_crops=data.max_crops,
        max_images=data.max_images,
        pooling=pooling,
        group_pooling=pooling,
        p_high_res=p_high_res,
    )
    video = video_settings(data, max_frames or data.max_frames)
    return ExampleChain(
        model,
        tokenizer or Tokenizer.load(data.tokenizer, model.llm.vocab_size),
        ExampleSettings(images, video, too_many_images="raise"),
        MediaCache(data.cache_frames) if remember else None,
    )


def video_settings(data: DataConfig, max_frames: int) -> VideoSettings:
    """Returns how a run's videos are read, with at most so many frames."""
    return VideoSettings(
        max_frames=max_frames,
        max_fps=data.fps,
        frame_tokens=data.frame_tokens,
        subtitle_mode=data.subtitles,
        decoder=data.decoder,
    )
