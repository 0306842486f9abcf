"""Compiles what requests will run, before the server is ready."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from stts_jax.config import Config
from stts_jax.data.chains import chain_of
from stts_jax.inference.engine.engine import Engine
from stts_jax.inference.engine.requests import MediaRow
from stts_jax.serving.chat_request import Prune
from stts_jax.serving.decoding_pool import Decoded
from stts_jax.serving.prepared_media import PreparedMedia, prepare_video, with_frames
from stts_jax.serving.service import Service


def grey_video(config: Config, frames: int) -> PreparedMedia:
    """Returns a grey video of so many frames, a second apart."""
    side = config.model.vit.image_size
    pixels = np.full((frames, side, side, 3), 128, np.uint8)
    times = np.arange(frames, dtype=np.float64)
    decoded = Decoded(pixels, pixels[:, :1, :1], times, 1.0, (side, side))
    return prepare_video(decoded, with_frames(chain_of(config), frames, 1.0))


def rows_to_compile(
    service: Service, frames: Sequence[int], ratios: Sequence[float]
) -> Iterator[MediaRow]:
    """Yields videos of so many frames at each ratio, and as the model was trained.

    Args:
      service: that answers.
      frames: of videos.
      ratios: of tokens that are dropped.
    """
    for count in frames:
        video = grey_video(service.config, count)
        prunes: list[Prune] = [None, *ratios]
        yield from (service.example(video, prune) for prune in prunes)


def most_prefix_tokens(config: Config, frames: int) -> int:
    """Returns the tokens of a video of so many frames of which nothing is dropped."""
    budget = grey_video(config, frames).row(config).budget
    return budget.tokens - budget.visual + budget.visual_before


def compile_all(
    service: Service, engine: Engine, frames: Sequence[int], ratios: Sequence[float]
) -> None:
    """Compiles for such videos, and for text alone; shows a bar on a terminal."""
    engine.warm_up(rows_to_compile(service, frames, ratios), shown=True)
