"""Finds the ratio that leaves as many visual tokens of more frames.

A video that is shorter than the frames asked for gives fewer of them, so the factor that was asked
for says too little. What counts is the frames that videos have at either length.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stts_jax.budget import MultimodalType, tokens_to_prune
from stts_jax.config import Config, ConfigError, DataConfig, ModelConfig
from stts_jax.data.chains import video_settings
from stts_jax.data.datasets.base import SourceExample
from stts_jax.data.evaluation_batches import scaled_frames
from stts_jax.data.media import count_frames
from stts_jax.data.video.frame_sampling import SamplingError
from stts_jax.data.video.reading import VideoError
from stts_jax.parallel.processes import notice


@dataclass(frozen=True)
class FrameCounts:
    """Frames of each video, one entry a question.

    Attributes:
      before: (N,) int32, as the model was trained to sample them.
      after: (N,) int32, with the factor that is asked for.
      scale: that factor.
    """

    before: np.ndarray
    after: np.ndarray
    scale: float

    @property
    def factor(self) -> float:
        """The multiple of the frames that is really reached."""
        return float(self.after.sum() / self.before.sum())


def same_budget_ratios(
    config: Config,
    questions: Sequence[SourceExample] | None,
    scale: float,
    ratios: Sequence[float],
) -> list[float]:
    """Returns ratios for more frames that leave as many tokens as `ratios` leave in training.

    Says so where the videos have another number of frames than `scale` asks for.

    Args:
      config: of the run.
      questions: about the videos; None for one video that is long enough.
      scale: times `data.max_frames` frames are taken.
      ratios: values of `model.prune.topk`.

    Raises:
      ConfigError: see `same_budget`.
    """
    counts = nominal_counts(config.data, scale)
    if questions is not None:
        asked, counts = counts.factor, frame_counts(config.data, questions, scale)
        if counts.factor != asked:
            notice(
                f"with --frames {scale:g}x these videos have {counts.factor:.3g} times their "
                f"frames, {counts.after.mean():.3g} on average; --same-budget goes by that"
            )
    return [same_budget(config, counts, ratio) for ratio in ratios]


def nominal_counts(data: DataConfig, scale: float) -> FrameCounts:
    """Returns the counts of one video that is long enough for all frames."""
    before, after = (np.array([scaled_frames(data, x)], np.int32) for x in (1.0, scale))
    return FrameCounts(before, after, scale)


def frame_counts(data: DataConfig, questions: Sequence[SourceExample], scale: float) -> FrameCounts:
    """Returns the counts of the questions' videos, without decoding; unreadable ones are left out.

    Without a video among them, see `nominal_counts`.
    """
    settings = [video_settings(data, scaled_frames(data, x)) for x in (1.0, scale)]
    known: dict[str, list[int]] = {}
    counts = []
    for question in questions:
        if question.video is None:
            continue
        key = repr((question.video, question.clip, question.metadata.get("sampler_overrides")))
        try:
            if key not in known:
                known[key] = [count_frames(question, each) for each in settings]
            counts.append(known[key])
        except (VideoError, SamplingError):
            continue
    if not counts:
        return nominal_counts(data, scale)
    before, after = np.array(counts, np.int32).T
    return FrameCounts(before, after, scale)


def same_budget(config: Config, counts: FrameCounts, topk: float) -> float:
    """Returns the ratio that leaves as many tokens of more frames as `topk` leaves of fewer.

    Raises:
      ConfigError: if there are too few tokens even when none is dropped.
    """
    model = config.model
    exact = 1 - (1 - topk) / counts.factor
    wanted = _kept(counts.before, topk, model)
    if exact < 0:
        videos = len(counts.after)
        have = int(counts.after.sum()) * model.tokens_per_frame / videos
        raise ConfigError(
            f"--same-budget would keep {wanted / videos:g} visual tokens of a video, but with "
            f"--frames {counts.scale:g}x it has only {have:g} in all; take more frames, or drop "
            "more with --k"
        )
    if model.prune.method == "none":
        return exact
    # Counts are cut towards zero, so that rounding may cost a token; half of one adds none.
    half_a_token = 0.5 / (model.tokens_per_frame * float(counts.after.mean()))
    near = (exact, exact + half_a_token)
    return min(near, key=lambda ratio: abs(_kept(counts.after, ratio, model) - wanted))


def _kept(frames: np.ndarray, topk: float, model: ModelConfig) -> int:
    """Pooled tokens that are left of videos of so many frames, all together."""
    prune = dataclasses.replace(model.prune, topk=topk)
    kinds = np.full_like(frames, MultimodalType.VIDEO)
    pruned = tokens_to_prune(frames, kinds, prune, model.tokens_per_frame)
    return int(frames.sum()) * model.tokens_per_frame - int(pruned.sum())
