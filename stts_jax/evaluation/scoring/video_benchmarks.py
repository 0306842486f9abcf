"""Benchmarks whose questions fall into groups: what one answer adds to each.

Source: docs/reference.md#metrics, the reference's `evaluators.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from stts_jax.evaluation.scoring import letters
from stts_jax.evaluation.scoring.answer_text import clean_answer
from stts_jax.evaluation.scoring.choices import (
    first_letter_score,
    nearest_option_score,
    option_wordings,
    right_letter_named,
)
from stts_jax.evaluation.scoring.score import Metadata, Metric, Score

VIDEO_MME_TASKS = (
    "Action Reasoning",
    "Action Recognition",
    "Attribute Perception",
    "Counting Problem",
    "Information Synopsis",
    "OCR Problems",
    "Object Reasoning",
    "Object Recognition",
    "Spatial Perception",
    "Spatial Reasoning",
    "Temporal Perception",
    "Temporal Reasoning",
)
VIDEO_MME_CATEGORIES = (
    "Acrobatics",
    "Animation",
    "Astronomy",
    "Athletics",
    "Basketball",
    "Biology & Medicine",
    "Daily Life",
    "Documentary",
    "Esports",
    "Exercise",
    "Fashion",
    "Finance & Commerce",
    "Food",
    "Football",
    "Geography",
    "Handicraft",
    "Humanity & History",
    "Law",
    "Life Tip",
    "Literature & Art",
    "Magic Show",
    "Movie & TV Show",
    "Multilingual",
    "News Report",
    "Other Sports",
    "Pet & Animal",
    "Stage Play",
    "Technology",
    "Travel",
    "Variety Show",
)
VIDEO_MME_DURATIONS = ("short", "medium", "long")
LONG_VIDEO_BENCH_DURATIONS = (15, 60, 600, 3600)
LONG_VIDEO_BENCH_CATEGORIES = (
    "E2O",
    "E3E",
    "O2E",
    "O3O",
    "S2A",
    "S2E",
    "S2O",
    "SAA",
    "SOS",
    "SSS",
    "T2A",
    "T2E",
    "T2O",
    "T3E",
    "T3O",
    "TAA",
    "TOS",
)
LV_BENCH_TYPES = (
    "reasoning",
    "temporal grounding",
    "event understanding",
    "summarization",
    "key information retrieval",
    "entity recognition",
)
TOMATO_TYPES = (
    "count",
    "direction",
    "rotation",
    "shape&trend",
    "velocity&frequency",
    "visual_cues",
)


def video_mme(durations: Sequence[str] = VIDEO_MME_DURATIONS) -> Metric:
    """Video-MME, in all and by duration, category and kind of task.

    The published rule leaves out answers without a letter, which flatters; the fixed rule counts
    them as wrong.

    Args:
      durations: reported even if no question has them.
    """
    groups = (
        *durations,
        "all",
        "medium_long",
        *(f"all_category_{name}" for name in VIDEO_MME_CATEGORIES),
        *(f"all_task_{name}" for name in VIDEO_MME_TASKS),
    )
    split = (*durations, "all", "medium_long")
    return Metric("video_mme", _video_mme_scores, "all", groups, split)


def _video_mme_scores(
    answer: str, metadata: Metadata, generator: np.random.RandomState
) -> Mapping[str, Score]:
    right, duration = metadata["answer"], metadata["duration"]
    letter = letters.video_mme_letter(answer)
    fixed = right_letter_named(answer, right, option_wordings(metadata), count=4)
    score = Score(float(letter == right) if letter else None, fixed)
    groups = [
        "all",
        duration,
        f"all_category_{metadata['sub_category']}",
        f"all_task_{metadata['task_type']}",
    ]
    groups += ["medium_long"] if duration in ("medium", "long") else []
    return dict.fromkeys(groups, score)


def _long_video_bench_scores(
    answer: str, metadata: Metadata, generator: np.random.RandomState
) -> Mapping[str, Score]:
    options, right = metadata["options"], metadata["answer"]
    wordings = option_wordings(metadata)
    reading = letters.long_video_bench_letter(answer.strip(), options, generator)
    accepted = [right] if isinstance(right, str) else list(right)
    score = Score(
        value=float(reading.letter in accepted),
        fixed=max(right_letter_named(answer, r, wordings) for r in accepted),
        guessed=reading.guessed,
    )
    duration, category = metadata["duration_group"], metadata["question_category"]
    return dict.fromkeys((f"duration_{duration}", "all", f"all_{category}"), score)


LONG_VIDEO_BENCH = Metric(
    "long_video_bench",
    _long_video_bench_scores,
    "all",
    (
        *(f"duration_{seconds}" for seconds in LONG_VIDEO_BENCH_DURATIONS),
        "all",
        *(f"all_{category}" for category in LONG_VIDEO_BENCH_CATEGORIES),
        *("all_easy", "all_medium", "all_hard"),
    ),
    ("all", *(f"duration_{seconds}" for seconds in LONG_VIDEO_BENCH_DURATIONS)),
)


def _lv_bench_scores(
    answer: str, metadata: Metadata, generator: np.random.RandomState
) -> Mapping[str, Score]:
    score = first_letter_score(answer, metadata)
    return dict.fromkeys((*(f"all_{kind}" for kind in metadata["qtype"]), "all"), score)


LV_BENCH = Metric(
    "lvbench",
    _lv_bench_scores,
    "all",
    (*(f"all_{kind}" for kind in LV_BENCH_TYPES), "all"),
)


def _tomato_scores(
    answer: str, metadata: Metadata, generator: np.random.RandomState
) -> Mapping[str, Score]:
    score = nearest_option_score(answer.strip(), metadata)
    return dict.fromkeys((metadata["reasoning_type"], "all"), score)


TOMATO = Metric("tomato", _tomato_scores, "all", (*TOMATO_TYPES, "all"))


def _temporal_bench_scores(
    answer: str, metadata: Metadata, generator: np.random.RandomState
) -> Mapping[str, Score]:
    """The published rule compares an open answer's reference with itself: it is always right."""
    if "option_names" in metadata:
        score = nearest_option_score(answer.strip(), metadata)
    else:
        same = clean_answer(answer).lower() == metadata["answer"].strip().lower()
        score = Score(1.0, float(same))
    return dict.fromkeys((metadata["type"], "all"), score)


TEMPORAL_BENCH = Metric("temporal_bench", _temporal_bench_scores, "all", ("all",))
