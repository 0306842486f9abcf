"""Objects followed through a video: points on masks frame by frame, and whether numbers are kept.

A track frame is `{"frame": index, "points": {object: {"point": (x, y)}}}`, pixels; masks are, for
each object, frame -> (H, W) bool.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from stts_jax.data.text.formatting.point_parsing import parse_tracks
from stts_jax.evaluation.scoring.point_matching import (
    matched_hits,
    on_mask,
    precision_recall_f1,
)
from stts_jax.evaluation.scoring.score import Metadata, Metric, Score

# Object or number in an answer to (x, y) in pixels; of each frame.
FramePoints = Mapping[int, Mapping[Any, tuple[float, float]]]
Masks = Mapping[Hashable, Mapping[int, np.ndarray | None]]


def frame_scores(
    found: FramePoints, right: FramePoints, masks: Masks
) -> tuple[float, float, float]:
    """Precision, recall and F1, averaged over the frames that have points of either.

    In each frame points are matched by distance, and a match counts if it is on the object's mask.

    The reference takes a frame's masks by the order of the objects and counts objects that have no
    point in the frame as missed. Here a point is held against the mask of its own object.

    Source: the reference's `evaluate_video_tracks_with_masks`.
    """
    frames = sorted({*found, *right})
    if not frames:
        return 1.0, 1.0, 1.0
    scores = []
    for frame in frames:
        given = list(found.get(frame, {}).values())
        objects = list(right.get(frame, {}))
        wanted = list(right.get(frame, {}).values())
        hits = matched_hits(given, wanted, partial(_is_hit, given, objects, frame, masks))
        scores.append(precision_recall_f1(hits, len(given), len(wanted)))
    precision, recall, f1 = np.mean(scores, axis=0)
    return float(precision), float(recall), float(f1)


def higher_order_accuracy(
    found: FramePoints, right: FramePoints, masks: Masks
) -> tuple[float, float, float]:
    """HOTA, detection accuracy and association accuracy of numbered points.

    A point is on an object or not, so all of HOTA's thresholds give the same.

    Source: the reference's `HOTAMetric`, after TrackEval.
    """
    numbers = sorted({n for points in found.values() for n in points}, key=str)
    objects = sorted({o for points in right.values() for o in points}, key=str)
    if not numbers or not objects:
        value = float(not numbers and not objects)
        return value, value, value
    hits = _hits_by_frame(found, right, masks, objects, numbers)
    shown = np.array([sum(o in points for points in right.values()) for o in objects])[:, None]
    told = np.array([sum(n in points for points in found.values()) for n in numbers])[None]
    together = sum((_shared(frame) for frame in hits), np.zeros((len(objects), len(numbers))))
    alignment = together / (shown + told - together + np.finfo(float).eps)
    matches = np.zeros_like(together)
    from scipy.optimize import linear_sum_assignment  # see point_matching.py

    for frame in hits:
        rows, columns = linear_sum_assignment(-alignment * frame)
        matches[rows, columns] += frame[rows, columns]
    true = matches.sum()
    detection = true / (shown.sum() + told.sum() - true)
    association = (matches * matches / np.maximum(1, shown + told - matches)).sum() / max(1, true)
    return float(np.sqrt(detection * association)), float(detection), float(association)


def _scores(
    answer: str, metadata: Metadata, generator: np.random.RandomState
) -> Mapping[str, Score]:
    width, height = metadata.get("image_size") or (metadata["w"], metadata["h"])
    parsed = parse_tracks(answer, width, height, metadata["video_fps"])
    found = {frame.frame: frame.points for frame in parsed}
    right, masks = _points_by_frame(metadata["points"]), metadata["masks"]
    names = ("precision", "recall", "f1", "HOTA", "DetA", "AssA")
    values = (
        *frame_scores(found, right, masks),
        *higher_order_accuracy(found, right, masks),
    )
    scores = {name: Score.of(value) for name, value in zip(names, values, strict=True)}
    category = metadata.get("category")
    if category:
        scores |= {f"{name}_{category}": score for name, score in scores.items()}
    return scores


# Metadata: `image_size` or `w` and `h`, `video_fps`, `points` (track frames), `masks`.
TRACKING = Metric("tracking", _scores, "f1", ("precision", "recall", "f1", "HOTA", "DetA", "AssA"))


def _points_by_frame(frames: Sequence[Mapping[str, Any]]) -> FramePoints:
    return {
        frame["frame"]: {number: tuple(at["point"]) for number, at in frame["points"].items()}
        for frame in frames
    }


def _is_hit(
    given: Sequence[tuple[float, float]],
    objects: Sequence[Hashable],
    frame: int,
    masks: Masks,
    i: int,
    j: int,
) -> bool:
    return _hit(given[i], objects[j], frame, masks)


def _hit(point: tuple[float, float], number: Hashable, frame: int, masks: Masks) -> bool:
    mask = masks.get(number, {}).get(frame)
    return mask is not None and on_mask(*point, mask)


def _hits_by_frame(
    found: FramePoints,
    right: FramePoints,
    masks: Masks,
    objects: Sequence[Hashable],
    numbers: Sequence[Hashable],
) -> list[np.ndarray]:
    """Returns (objects, numbers) for each frame with points of both: 1 where a number hits."""
    hits = []
    for frame in sorted({*found} & {*right}):
        hits.append(
            np.array(
                [
                    [
                        float(
                            o in right[frame]
                            and n in found[frame]
                            and _hit(found[frame][n], o, frame, masks)
                        )
                        for n in numbers
                    ]
                    for o in objects
                ]
            )
        )
    return hits


def _shared(hits: np.ndarray) -> np.ndarray:
    """Hits of a frame, each divided by how many others it competes with."""
    rivals = hits.sum(0)[None] + hits.sum(1)[:, None] - hits
    return np.divide(hits, rivals, out=np.zeros_like(hits), where=rivals > 0)
