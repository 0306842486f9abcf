"""Spans of time in an answer, against the spans that are right."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from stts_jax.evaluation.scoring.score import Metadata, Metric, Score

Segment = tuple[float, float]

SEGMENT = re.compile(r"(\d+\.?\d*)\s*-\s*(\d+\.?\d*)")
OVERLAP = 0.5


def named_segments(text: str) -> list[Segment]:
    """Every "12.5-20" in a text, seconds, in order; those that end too early are left out.

    Source: the reference's `QVHighlightsEval`.
    """
    return [segment for segment in _all_segments(text) if segment[0] < segment[1]]


def overlap(first: Segment, second: Segment) -> float:
    """Shared time over joint time, 0 to 1."""
    shared = min(first[1], second[1]) - max(first[0], second[0])
    if shared <= 0:
        return 0.0
    return shared / (first[1] - first[0] + second[1] - second[0] - shared)


def segment_scores(
    found: Sequence[Segment], right: Sequence[Segment]
) -> tuple[float, float, float]:
    """Precision, recall and F1 of segments that overlap by half.

    Each right segment takes the first free one that overlaps enough, in order. Where there is
    nothing to find, finding nothing is perfect.

    Source: the reference's `QVHighlightsEval`.
    """
    if not found or not right:
        value = float(not found and not right)
        return value, value, value
    free = list(found)
    for segment in right:
        match = next((f for f in free if overlap(segment, f) >= OVERLAP), None)
        if match is not None:
            free.remove(match)
    hits = len(found) - len(free)
    precision, recall = hits / len(found), hits / len(right)
    return precision, recall, 2 * precision * recall / (precision + recall) if hits else 0.0


def _all_segments(text: str) -> list[Segment]:
    return [(float(found[1]), float(found[2])) for found in SEGMENT.finditer(text)]


def _score(
    answer: str, metadata: Metadata, generator: np.random.RandomState
) -> Mapping[str, Score]:
    right = [(float(start), float(end)) for start, end in metadata["relevant_windows"]]
    published = segment_scores(named_segments(answer), right)
    fixed = segment_scores(_all_segments(answer), right)
    names = ("precision", "recall", "f1")
    return {n: Score(p, f) for n, p, f in zip(names, published, fixed, strict=True)}


# The fixed rule counts a segment that ends before it starts as one that is wrong.
QV_HIGHLIGHTS = Metric("qv_highlights", _score, "f1", ("precision", "recall", "f1"))
