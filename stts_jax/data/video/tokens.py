"""Turns frames, their times and subtitles into patches and tokens.

Source: olmo/preprocessing/video_preprocessor.py (docs/reference.md#frame-tokens).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stts_jax.budget import MultimodalType
from stts_jax.config import VitConfig
from stts_jax.data.images.image import pooling_index, resize, to_patches
from stts_jax.data.text.tokenizer import Tokenizer
from stts_jax.data.video.reading import NO_OVERRIDES, Video, VideoOverrides, read_sampled
from stts_jax.data.video.settings import TimeMode, VideoSettings
from stts_jax.data.vision import VisionInput

# Text of a whole video, or of each span of seconds in it.
Subtitles = str | Mapping[tuple[float, float], str]
SUBTITLE_HEAD = "subtitle\n"


@dataclass(frozen=True)
class VideoPreprocessor:
    """Turns videos into the model's input.

    Attributes:
      settings: how.
      vit: size of frames and patches.
      pooling: side of the square of patches that makes a token.
      tokenizer: for all text.
    """

    settings: VideoSettings
    vit: VitConfig
    pooling: int
    tokenizer: Tokenizer

    def read(
        self,
        path: str | Path,
        overrides: VideoOverrides = NO_OVERRIDES,
        rng: np.random.RandomState | None = None,
    ) -> Video:
        """Sampled frames of a file, squashed to the size that the model takes.

        Args:
          path: a file.
          overrides: what the example says about its video.
          rng: the example's generator in training, which a sampler may draw from.

        Raises:
          VideoError: if it can't be read.
        """
        return read_sampled(
            path,
            self.settings.sampler(),
            overrides,
            rng=rng,
            transform=functools.partial(resize, size=self.vit.image_size),
            decoder=self.settings.decoder,
        )

    def vision_input(
        self, frames: np.ndarray, timestamps: np.ndarray, subtitle: Subtitles | None = None
    ) -> VisionInput:
        """Returns the model's input for a video.

        Args:
          frames: (c, H, W, 3) uint8, of any size; they are squashed.
          timestamps: (c,) float64 seconds.
          subtitle: shown after the frames; times in seconds like those of the frames.

        Raises:
          ValueError: if there is not one time for each frame.
        """
        if len(frames) != len(timestamps) or len(frames) == 0:
            raise ValueError(
                f"there are {len(frames)} frames with {len(timestamps)} times; give one time for "
                "each frame, and at least one frame"
            )
        squashed = np.stack([resize(frame, self.vit.image_size) for frame in frames])
        return VisionInput(
            self.token_ids(timestamps, subtitle),
            to_patches(squashed, self.vit.patch_size),
            self._token_pooling(len(frames)),
            MultimodalType.VIDEO,
        )

    def token_ids(self, timestamps: np.ndarray, subtitle: Subtitles | None = None) -> np.ndarray:
        """The (n,) int32 tokens alone, for (c,) seconds; see `vision_input`."""
        special = self.tokenizer.special_ids
        kind = "frame" if self.settings.use_frame_special_tokens else "im"
        start, end = [special[f"<{kind}_start>"]], [special[f"<{kind}_end>"]]
        patches = [special["<im_patch>"]] * len(self._one_frame)
        around_each = self.settings.frame_tokens == "frame"
        if around_each:
            patches = start + patches + end
        tokens: list[int] = []
        for k, seconds in enumerate(timestamps.tolist()):
            text = frame_prefix(seconds, k, self.settings.time_mode)
            tokens += self.tokenizer.encode(text) + patches
        if not around_each:
            tokens = start + tokens + end
        return np.array(tokens + self._subtitle_ids(timestamps, subtitle), np.int32)

    @functools.cached_property
    def _one_frame(self) -> np.ndarray:
        return pooling_index(self.vit.grid, self.pooling)

    def _token_pooling(self, frames: int) -> np.ndarray:
        shift = np.arange(frames, dtype=np.int32)[:, None, None] * self.vit.patches
        index = np.where(self._one_frame < 0, self._one_frame, self._one_frame + shift)
        return index.reshape(-1, index.shape[-1]).astype(np.int32)

    def _subtitle_ids(self, timestamps: np.ndarray, subtitle: Subtitles | None) -> list[int]:
        if not subtitle or self.settings.subtitle_mode == "ignore":
            return []
        text = subtitle_text(subtitle, timestamps, self.settings.subtitle_seconds)
        return self.tokenizer.encode(text)[: self.settings.subtitle_tokens]


def frame_prefix(seconds: float, frame: int, mode: TimeMode) -> str:
    """Text before the patches of a frame.

    Args:
      seconds: its time. A half is rounded as its float64 value is, so 0.15 gives 0.1.
      frame: its number, from 0.
      mode: see `VideoSettings.time_mode`.
    """
    if mode == "none":
        return ""
    texts = {
        "per-frame-compact": f"{seconds:.1f} ",
        "per-frame": f"time {seconds:.2f} ",
        "numbered-frames": f"{frame + 1}: ",
    }
    return texts[mode] if frame == 0 else f" {texts[mode]}"


def subtitle_text(subtitle: Subtitles, timestamps: np.ndarray, seconds: float | None) -> str:
    """Subtitles as the model reads them.

    Args:
      subtitle: text, which is taken as it is, or lines of text by their (first, last) second.
      timestamps: (c,) seconds of the frames.
      seconds: lines farther than this from every frame are left out; None for no line.

    Raises:
      ValueError: if `subtitle` is neither.
    """
    if isinstance(subtitle, str):
        return SUBTITLE_HEAD + subtitle
    if not isinstance(subtitle, Mapping):
        raise ValueError(
            f"subtitles are of type {type(subtitle).__name__}; give a text, or a dict of texts by "
            "their first and last second"
        )
    lines = [
        f"{start:.1f} - {end:.1f} {text}\n"
        for (start, end), text in subtitle.items()
        if seconds is None or _near(start, end, timestamps, seconds)
    ]
    return SUBTITLE_HEAD + "".join(lines)


def _near(start: float, end: float, timestamps: np.ndarray, seconds: float) -> bool:
    return bool(np.any((end >= timestamps - seconds) & (timestamps + seconds >= start)))
