"""Pointing and counting in videos and images.

Masks are boolean arrays; a dataset that has them in another form decodes them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from stts_jax.data.text.formatting.point_parsing import parse_points
from stts_jax.evaluation.scoring.point_matching import (
    matched_hits,
    on_mask,
    precision_recall_f1,
)
from stts_jax.evaluation.scoring.score import Metadata, Metric, Score

POINT_GROUPS = ("precision", "recall", "f1")
SUBSETS = ("object", "animal", "action/event")
COUNT_BINS = (0, 5, 10, 15, 20, 25)
# Times and coordinates are matched as percentages with this many decimals.
PERCENT_DECIMALS = 1
STATED_TOTAL = re.compile(r"(?:a total of|the total number(?:\s+of\s+.+?)?\s+is:)\s*(\d+)")


def _image_scores(
    answer: str, metadata: Metadata, generator: np.random.RandomState
) -> Mapping[str, Score]:
    width, height = metadata["image_size"]
    masks, right = metadata["masks"], metadata["gt_points"]
    found = [(point.x, point.y) for point in parse_points(answer, width, height)]
    hits = matched_hits(found, right, lambda i, j: on_mask(*found[i], masks[j]))
    return _named(precision_recall_f1(hits, len(found), len(right)))


# Metadata: `image_size` (width, height), `gt_points` (n, 2) pixels, `masks` (n, H, W), one object
# for each point. Source: the reference's `PointingEval`, without its split by upper case.
IMAGE_POINTING = Metric("pointing", _image_scores, "f1", POINT_GROUPS)


def _video_scores(
    answer: str, metadata: Metadata, generator: np.random.RandomState
) -> Mapping[str, Score]:
    width, height = metadata["video_width"], metadata["video_height"]
    size = (metadata["video_duration"], width, height)
    right, masks = metadata["gt_abs_triplets"], metadata["gt_abs_masks"]
    found = [(p.group, p.x, p.y) for p in parse_points(answer, width, height)]

    def is_hit(i: int, j: int) -> bool:
        time, x, y = found[i]
        return time in masks[j] and on_mask(x, y, masks[j][time])

    hits = matched_hits(
        [_percent(f, size) for f in found], [_percent(r, size) for r in right], is_hit
    )
    scores = _named(precision_recall_f1(hits, len(found), len(right)))
    return {**scores, "valid": Score.of(bool(found))}


# Metadata: `video_width`, `video_height`, `video_duration` seconds, `gt_abs_triplets` (n, 3)
# seconds and pixels, `gt_abs_masks`, for each of them time -> (H, W). A point counts at exactly the
# times that have a mask. Source: the reference's `VixMoPointEval`.
VIDEO_POINTING = Metric("video_pointing", _video_scores, "f1", (*POINT_GROUPS, "valid"))


def published_count(text: str) -> int | None:
    """The number that an answer is or states as a total, or None.

    "There are none." states no number: the reference's pattern for it can never match.

    Source: the reference's `VixMoPointCountEval`.
    """
    text = text.strip().lower().rstrip(".").strip()
    try:
        return int(text)
    except ValueError:
        stated = STATED_TOTAL.search(text)
        return int(stated[1]) if stated else None


def careful_count(text: str) -> int | None:
    """`published_count`, and 0 where the answer says that there are none."""
    count = published_count(text)
    return 0 if count is None and re.search(r"\bnone\b", text, re.IGNORECASE) else count


def _count_scores(
    answer: str, metadata: Metadata, generator: np.random.RandomState
) -> Mapping[str, Score]:
    right = int(metadata["count"])
    published, fixed = published_count(answer), careful_count(answer)
    margin = 1 + int(0.05 * right)
    correct = Score(float(published == right), float(fixed == right))
    near, fixed_near = (
        float(n is not None and abs(n - right) <= margin) for n in (published, fixed)
    )
    close = Score(near, fixed_near)
    return {
        "correct": correct,
        "close": close,
        "valid": Score(float(published is not None), float(fixed is not None)),
        _bin_name(max(low for low in COUNT_BINS if low <= right)): correct,
        f"acc_{metadata['subset']}": correct,
    }


def _bin_name(low: int) -> str:
    index = COUNT_BINS.index(low) + 1
    return f"correct_{low}_{COUNT_BINS[index]}" if index < len(COUNT_BINS) else f"correct_{low}_up"


# Metadata: `count`, `subset`. The last bin is named after the largest count in the reference.
VIDEO_COUNTING = Metric(
    "video_counting",
    _count_scores,
    "correct",
    (
        *("close", "valid", "correct"),
        *(_bin_name(low) for low in COUNT_BINS),
        *(f"acc_{subset}" for subset in SUBSETS),
    ),
)


def _named(values: tuple[float, float, float]) -> dict[str, Score]:
    return {name: Score.of(value) for name, value in zip(POINT_GROUPS, values, strict=True)}


def _percent(point: tuple[float, ...], size: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(round(p / s * 100, PERCENT_DECIMALS) for p, s in zip(point, size, strict=True))
