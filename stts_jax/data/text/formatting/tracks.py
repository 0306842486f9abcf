"""Tracks of objects in a video: the choice of frames, and their text.

A track frame is `{"time": seconds or text, "frame": index, "points": {id: {"point": (x, y),
"occluded": bool}}}`, as datasets give it. Source: docs/reference.md#points-and-tracks.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from stts_jax.data.text.formatting.fields import FormatterError
from stts_jax.data.text.formatting.points import (
    Scale,
    number_text,
    scaled_point,
    separator,
    track_element,
)
from stts_jax.data.text.formatting.settings import FormatterSettings
from stts_jax.data.text.formatting.templates import draw_one
from stts_jax.data.text.formatting.timestamps import answer_time, parse_timestamp

TrackFrame = Mapping[str, Any]

NO_TRACKS = "No tracks available."
# The only object of an annotation that follows a single one.
SINGLE_OBJECT = 0
# Seconds within which an annotated time is that of a frame.
SAME_TIME = 1e-2
P_RANDOM_START = 0.2


def frames_at_times(
    frames: Sequence[TrackFrame], times: Sequence[float] | np.ndarray | None
) -> list[TrackFrame]:
    """The track frames within 0.01 s of one of `times`; none if there are no times."""
    if not len(frames) or times is None or not len(times):
        return []
    annotated = np.array([_seconds(frame) for frame in frames])
    distances = np.abs(annotated[:, None] - np.asarray(times)[None]).min(axis=1)
    return [frame for frame, near in zip(frames, distances < SAME_TIME, strict=True) if near]


def frames_at_rate(frames: Sequence[TrackFrame], fps: float) -> list[TrackFrame]:
    """The track frames on the grid of `fps` per second, from the first to the last of them."""
    if not frames:
        return []
    step = 1.0 / fps
    start = np.ceil(_seconds(frames[0]) / step) * step
    return frames_at_times(frames, np.arange(start, _seconds(frames[-1]) + 1e-6, step))


def first_and_last(frames: Sequence[TrackFrame]) -> list[TrackFrame]:
    """Returns the first and last frame of every object; frames of one time become one."""
    ends: dict[Hashable, tuple[int, int]] = {}
    for index, frame in enumerate(frames):
        for number in frame["points"]:
            ends[number] = (ends.get(number, (index, index))[0], index)
    merged: dict[Any, dict[str, Any]] = {}
    for index, frame in enumerate(frames):
        kept = {number: at for number, at in frame["points"].items() if index in ends[number]}
        if kept:
            target = merged.setdefault(frame["time"], {**frame, "points": {}})
            target["points"].update(kept)
    return list(merged.values())


def frames_after(
    frames: Sequence[TrackFrame], initial_points: Sequence[Mapping[str, Any]]
) -> list[TrackFrame]:
    """Frames that hold one of the objects later than its initial point, with all their points."""
    starts = {point["id"]: _seconds(point) for point in initial_points}
    return [
        frame
        for frame in frames
        if any(_seconds(frame) > starts.get(number, np.inf) for number in frame["points"])
    ]


def initial_point(
    frames: Sequence[TrackFrame], *, random_start: bool, rng: np.random.RandomState
) -> dict[str, Any] | None:
    """Returns where a track starts: when first seen, or with `random_start` in 20 % at any time.

    None if it is never seen. The reference takes any object's points, because a loop variable
    hides the one that was asked for, and draws from Python's global generator; here only the object
    0 counts and draws come from `rng`.
    """
    seen = [
        {"id": number, "point": at["point"], "time": frame["time"], "frame": frame["frame"]}
        for frame in frames
        for number, at in frame["points"].items()
        if number == SINGLE_OBJECT and not at.get("occluded", False)
    ]
    if not seen:
        return None
    if random_start and rng.random() < P_RANDOM_START:
        return draw_one(seen, rng)
    return seen[0]


def track_text(
    frames: Sequence[TrackFrame], scale: Scale, label: str, settings: FormatterSettings
) -> str:
    """Tracks as `<tracks coords="0.5 1 437 812;1.0 1 440 800">dog</tracks>`.

    Objects get numbers from 1 in the order in which they appear, by x and then y within a frame;
    each frame lists its points by number. Occluded points are left out. "" if none are left.
    """
    numbers: dict[Hashable, int] = {}
    groups = []
    for frame in sorted(frames, key=_seconds):
        points = _visible_points(frame, scale, numbers)
        if points:
            time = answer_time(frame["time"], settings)
            groups.append(f"{time} {number_text(list(points), list(points.values()))}")
    return track_element(separator(settings).join(groups), label)


def _visible_points(
    frame: TrackFrame, scale: Scale, numbers: dict[Hashable, int]
) -> dict[int, tuple[int, int]]:
    """Number -> scaled point, by number; objects that are new are entered into `numbers`."""
    points = [
        (scaled_point(at["point"], scale), name)
        for name, at in frame["points"].items()
        if not at.get("occluded", False)
    ]
    points.sort(key=lambda point: point[0])
    for _, name in points:
        numbers.setdefault(name, len(numbers) + 1)
    return dict(sorted((numbers[name], point) for point, name in points))


def _seconds(frame: Mapping[str, Any]) -> float:
    seconds = parse_timestamp(frame["time"])
    if isinstance(seconds, str):
        raise FormatterError(
            f"the time {seconds!r} of a track cannot be read; write seconds or minutes:seconds.0"
        )
    return seconds
