"""A stream of example sizes like those of the academic video mixture, without any of its files.

Each line of `DATASETS` stands for a dataset of `mixtures.VIDEO_ACADEMIC`
(docs/reference.md#training-datasets): its examples
(the cap where it has one), seconds shown, questions asked together, and tokens of a question with
its answer. Numbers of examples, seconds and questions are those of the datasets' papers, rounded
(TGIF-QA, TVQA, Something-Something v2, LLaVA-Video-178K, Perception Test, NExT-QA, How2QA,
SUTD-TrafficQA, Social-IQ 2, SportsQA, CinePile, CLEVRER, FunQA, STAR, IntentQA, RoadTextVQA,
Countix, Moments in Time, Kinetics-700, Charades-STA, COIN, YouCook2, ActivityNet, EPIC-KITCHENS,
QVHighlights); where a paper has no figure, or describes more than is shown here, it is an estimate.
Tokens are counted on prompts of each form with the Qwen3 tokenizer: 16 to 20 without options, 60 to
80 with them, and 8 for the time and the marks of a frame.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from stts_jax.budget import MultimodalType, tokens_to_prune
from stts_jax.config import ModelConfig

FRAMES, FPS, FRAME_TEXT = 64, 2.0, 8


class Kind(NamedTuple):
    """A dataset: `spread` is the deviation of the seconds' logarithm."""

    name: str
    examples: int
    seconds: float
    spread: float
    questions: float
    most_questions: int
    question_tokens: int


DATASETS = tuple(
    Kind(*line)
    for line in (
        ("tgif", 60_000, 3.1, 0.35, 2.5, 8, 35),
        ("tvqa", 60_000, 11.2, 0.7, 1, 1, 75),
        ("paxion", 60_000, 4.0, 0.4, 1, 1, 60),
        ("llava_video_mc", 12_000, 40, 0.6, 5, 10, 70),
        ("llava_video_oe", 20_000, 60, 0.6, 5, 10, 45),
        ("perception_test", 2_200, 23, 0.25, 3.4, 8, 55),
        ("nextqa", 3_900, 44, 0.6, 8.8, 20, 60),
        ("news_video_qa", 1_600, 45, 0.7, 3, 10, 35),
        ("how2qa", 35_000, 17.5, 0.5, 1.2, 4, 60),
        ("sutd_trafficqa", 6_000, 13.6, 0.5, 6.2, 15, 65),
        ("social_iq2", 900, 60, 0.05, 6, 12, 85),
        ("sportsqa", 4_000, 9, 0.5, 14, 40, 30),
        ("cinepile", 9_200, 160, 0.3, 32, 40, 80),
        ("clevrer", 10_000, 5, 0.01, 15.2, 20, 45),
        ("funqa", 3_200, 19, 0.5, 8, 60, 70),
        ("star", 20_000, 12, 0.5, 4, 10, 45),
        ("intent_qa", 3_400, 44, 0.6, 7, 20, 45),
        ("video_narratives", 10_000, 9, 0.5, 3, 10, 30),
        ("road_text_vqa", 2_500, 10, 0.05, 3.3, 6, 30),
        ("countix", 4_600, 6, 0.5, 1, 1, 25),
        ("camerabench", 1_400, 6, 0.5, 6, 20, 50),
        ("motionbench", 5_000, 8, 0.5, 1, 1, 130),
        ("moments_in_time", 60_000, 3, 0.01, 1, 1, 25),
        ("kinetics", 60_000, 9.5, 0.1, 1, 1, 25),
        ("charades_sta", 12_400, 8.2, 0.4, 1, 1, 25),
        ("coin", 30_000, 14.9, 0.7, 1, 1, 25),
        ("youcook2", 10_000, 19.6, 0.8, 1.2, 8, 30),
        ("activitynet", 25_000, 40, 0.8, 2, 10, 30),
        ("ego4d", 20_000, 15, 1.0, 1.5, 6, 35),
        ("epic_kitchens", 60_000, 3.1, 1.0, 1, 1, 22),
        ("narratives_caption", 8_000, 15, 0.6, 2, 5, 60),
        ("qv_highlights", 7_200, 150, 0.01, 1, 1, 60),
        ("video_capqa", 20_000, 60, 0.6, 5, 10, 80),
        ("video_subtitleqa", 10_000, 60, 0.6, 5, 10, 80),
    )
)


def sampled_frames(seconds: float) -> int:
    """Frames at `FPS` and the last one, or `FRAMES` evenly spread
    (docs/reference.md#frame-sampling)."""
    if seconds > (FRAMES - 1) / FPS:
        return FRAMES
    return math.ceil(seconds * FPS) + 1


def mixture_sizes(count: int, model: ModelConfig, seed: int = 0) -> Iterator[dict[str, int]]:
    """Sizes as of `rows.example_sizes`, for `count` videos of the mixture."""
    rng = np.random.default_rng(seed)
    rates = np.sqrt([kind.examples for kind in DATASETS])
    for number in rng.choice(len(DATASETS), count, p=rates / rates.sum()):
        kind = DATASETS[number]
        mean = math.log(kind.seconds) - kind.spread**2 / 2
        frames = sampled_frames(max(rng.lognormal(mean, kind.spread), 0.1))
        asked = min(rng.geometric(1 / kind.questions), kind.most_questions)
        question = kind.question_tokens
        lengths = np.maximum(rng.gamma(8, question / 8, asked).astype(int), 8)
        yield video_sizes(frames, 1 + frames * FRAME_TEXT + int(lengths.sum()), model)


def video_sizes(frames: int, text: int, model: ModelConfig) -> dict[str, int]:
    """Sizes of a video with `text` tokens beside its visual ones."""
    visual_before = frames * model.tokens_per_frame
    count = np.array([frames], np.int32), np.array([MultimodalType.VIDEO], np.int32)
    pruned = int(tokens_to_prune(*count, model.prune, model.tokens_per_frame)[0])
    return {
        "frames": frames,
        "patches": frames * model.vit.patches - pruned * model.prune.pooling**2,
        "visual": visual_before - pruned,
        "visual_before": visual_before,
        "tokens": visual_before - pruned + text,
        "tokens_before": visual_before + text,
    }
