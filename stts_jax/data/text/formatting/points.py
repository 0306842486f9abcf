"""Points in text: `<points coords="1 1 437 812">dog</points>`.

Coordinates are thousandths of the width and height, as three digits or more. Each image or frame
has its index or time in front, then its points with numbers that run on. Source:
docs/reference.md#points-and-tracks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stts_jax.data.text.formatting.fields import Annotation, FormatterError, describe
from stts_jax.data.text.formatting.settings import FormatterSettings
from stts_jax.data.text.formatting.timestamps import answer_time

COORDINATE_SCALE = 1000
# Between images or frames.
SEPARATORS = {"html-v1": "\t", "html-v2": ";"}
NO_POINTS = "There are none."

Scale = tuple[float, float]
Point = Sequence[float]


def point_scale(annotation: Annotation) -> Scale:
    """Returns the divisor of x and y to 0..1: `point_scale`, else the image's (width, height).

    Errors: FormatterError if the annotation has none of them.
    """
    if "point_scale" in annotation:
        return annotation["point_scale"], annotation["point_scale"]
    image = annotation.get("image")
    if isinstance(image, np.ndarray):
        height, width = image.shape[:2]
        return width, height
    width = annotation.get("width", annotation.get("w"))
    height = annotation.get("height", annotation.get("h"))
    if not width or not height:
        raise FormatterError(
            f"{describe(annotation)} has points but no size; give 'point_scale', or 'width' and "
            "'height' in pixels"
        )
    return width, height


def separator(settings: FormatterSettings) -> str:
    """Returns the text between images or frames; FormatterError for an unknown format."""
    if settings.pointing_format not in SEPARATORS:
        raise FormatterError(
            f"points cannot be written with pointing_format '{settings.pointing_format}'; choose "
            f"from {', '.join(SEPARATORS)}"
        )
    return SEPARATORS[settings.pointing_format]


def xy(point: Point | Mapping[str, Any]) -> tuple[float, float]:
    """A point given as (x, y) or as {"x": x, "y": y}; FormatterError if it is neither."""
    try:
        x, y = (point["x"], point["y"]) if isinstance(point, Mapping) else (point[0], point[1])
        return float(x), float(y)
    except (LookupError, TypeError, ValueError):
        raise FormatterError(
            f"{point!r} is not a point; give (x, y) or {{'x': x, 'y': y}} in numbers"
        ) from None


def scaled_point(point: Point | Mapping[str, Any], scale: Scale) -> tuple[int, int]:
    """(x, y) in thousandths, rounded half to even; points outside are moved to the border.

    The reference moves them only if x is outside and y is not, by an operator's precedence; what
    was meant is done here.
    """
    x, y = xy(point)
    x, y = (min(max(part / size, 0.0), 1.0) for part, size in zip((x, y), scale, strict=True))
    return round(COORDINATE_SCALE * x), round(COORDINATE_SCALE * y)


def number_text(numbers: Sequence[int], points: Sequence[tuple[int, int]]) -> str:
    """Numbered points as "1 437 812 2 500 031"."""
    return " ".join(f"{n} {x:03d} {y:03d}" for n, (x, y) in zip(numbers, points, strict=True))


def image_points(
    points: Sequence[Point],
    scale: Scale,
    label: str,
    mode: str | None,
    settings: FormatterSettings,
    alt: str | None = None,
) -> str:
    """Points in one image, which has the index 1; `alt` is a second text beside the label."""
    coordinates = _coordinates(["1"], [points], [scale], separator(settings))
    return with_count(_element("points", coordinates, label, alt), len(points), mode)


def multi_image_points(
    indices: Sequence[int],
    points: Sequence[Sequence[Point]],
    scales: Sequence[Scale],
    label: str,
    mode: str | None,
    settings: FormatterSettings,
) -> str:
    """Points in several images, each with its index from 1."""
    names = [str(index) for index in indices]
    coordinates = _coordinates(names, points, scales, separator(settings))
    return with_count(_element("points", coordinates, label), sum(map(len, points)), mode)


def video_points(
    times: Sequence[str | float],
    points: Sequence[Sequence[Point]],
    scale: Scale,
    label: str,
    mode: str | None,
    settings: FormatterSettings,
) -> str:
    """Points in several frames, each with its time."""
    names = [answer_time(time, settings) for time in times]
    coordinates = _coordinates(names, points, [scale] * len(points), separator(settings))
    return with_count(_element("points", coordinates, label), sum(map(len, points)), mode)


def track_element(coordinates: str, label: str) -> str:
    """Coordinates of tracks with their label; "" if there are no coordinates."""
    return _element("tracks", coordinates, label)


def with_count(element: str, count: int, mode: str | None) -> str:
    """The sentence around points: with their number before or after, or with one of both only."""
    if not count:
        return NO_POINTS
    if mode in ("point_then_count", "point_count"):
        return f"Counting the {element} shows a total of {count}."
    if mode in ("count_then_point", "count_point"):
        return f"There are {count} {element}."
    if mode == "count":
        return str(count)
    if mode in (None, "point", "pointing"):
        return element
    raise FormatterError(f"{mode!r} is not a way to write points; choose point, count or both")


def _element(tag: str, coordinates: str, label: str, alt: str | None = None) -> str:
    if not coordinates:
        return ""
    alternative = "" if alt is None else f' alt="{alt}"'
    return f'<{tag}{alternative} coords="{coordinates}">{label}</{tag}>'


def _coordinates(
    names: Sequence[str],
    points: Sequence[Sequence[Point]],
    scales: Sequence[Scale],
    between: str,
) -> str:
    """Groups of points, each with its name in front; numbers start at 1 and run on.

    Points are sorted by x and then y within their group.
    """
    groups, first = [], 1
    for name, group, scale in zip(names, points, scales, strict=True):
        # Sorted after rounding, so that the order is that of the numbers in the text.
        ordered = sorted(scaled_point(point, scale) for point in group)
        numbers = range(first, first + len(ordered))
        groups.append(f"{name} {number_text(numbers, ordered)}")
        first += len(ordered)
    return between.join(groups)
