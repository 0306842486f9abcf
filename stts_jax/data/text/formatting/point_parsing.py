"""Points and tracks in a model's answer, back to pixels. The inverse of `points` and `tracks`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from stts_jax.data.text.formatting.points import COORDINATE_SCALE

# All separators that were ever used are read, whatever is written today.
_ELEMENT = re.compile(r'<(?:points|tracks).*? coords="([0-9\t:;, .]+)"/?>')
_GROUP = re.compile(r"(?:^|\t|:|,|;)([0-9.]+) ([0-9. ]+)")
_POINT = re.compile(r"([0-9]+) ([0-9]{3,4}) ([0-9]{3,4})")


@dataclass(frozen=True)
class ParsedPoint:
    """A point of an answer.

    Attributes:
      group: seconds in a video, index from 1 of an image.
      number: the object's number in the answer.
      x: pixels from the left.
      y: pixels from the top.
    """

    group: float
    number: int
    x: float
    y: float


@dataclass(frozen=True)
class ParsedFrame:
    """The points of one time of a track: seconds, index of the frame, number -> (x, y) pixels."""

    time: float
    frame: int
    points: dict[int, tuple[float, float]] = field(default_factory=dict)


def parse_points(text: str, width: float, height: float) -> list[ParsedPoint]:
    """Points of all elements in `text`; those outside the image are dropped.

    A group whose time cannot be read is dropped; the reference stops with an error there.
    Source: docs/reference.md#points-and-tracks.
    """
    return [
        point
        for group, numbers in _groups(text)
        for point in _points(group, numbers, width, height)
    ]


def parse_tracks(text: str, width: float, height: float, fps: float) -> list[ParsedFrame]:
    """Tracks by time; of two points with one number at one time the first counts.

    `fps` frames per second turns times into frame indices. Source:
    docs/reference.md#points-and-tracks.
    """
    frames: dict[float, ParsedFrame] = {}
    for point in parse_points(text, width, height):
        frame = frames.setdefault(point.group, ParsedFrame(point.group, round(point.group * fps)))
        frame.points.setdefault(point.number, (point.x, point.y))
    return [frames[time] for time in sorted(frames)]


def _groups(text: str) -> Iterator[tuple[float, str]]:
    for element in _ELEMENT.finditer(text):
        for group in _GROUP.finditer(element.group(1)):
            try:
                name = float(group.group(1))
            except ValueError:
                continue
            yield name, group.group(2)


def _points(group: float, numbers: str, width: float, height: float) -> Iterator[ParsedPoint]:
    for match in _POINT.finditer(numbers):
        number, x, y = (int(part) for part in match.groups())
        # Four digits can hold more than the whole.
        if x <= COORDINATE_SCALE and y <= COORDINATE_SCALE:
            yield ParsedPoint(
                group, number, x / COORDINATE_SCALE * width, y / COORDINATE_SCALE * height
            )
