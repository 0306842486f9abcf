"""What tells lines about the same media from others."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from stts_jax.data.embedded import is_data_uri
from stts_jax.data.sources.own_line import Line


def line_key(line: Line, folder: Path) -> str:
    """Returns a text that is the same for two lines if their media are equal, and only then.

    Args:
      line: any that is right.
      folder: that its paths are relative to. A file in it may be named by its whole path too.
    """
    subtitle: Any = line.subtitle
    if line.subtitle_is_file:
        subtitle = ("file", _named(str(line.subtitle).strip(), folder))
    elif isinstance(subtitle, tuple):
        subtitle = tuple((start + 0.0, end + 0.0, text) for start, end, text in subtitle)
    clip = None if line.clip is None else (line.clip[0] + 0.0, line.clip[1] + 0.0)
    video = None if line.video is None else _named(line.video, folder)
    images = tuple(_named(image, folder) for image in line.images)
    if not images and subtitle is None:
        return f"{video!r}{clip}"
    return f"{video!r}{clip}{images}{subtitle!r}"


def _named(path: str, folder: Path) -> str:
    if is_data_uri(path):
        return path
    named = PurePosixPath(path)
    if named.is_absolute() and named.is_relative_to(folder):
        named = named.relative_to(folder)
    return str(named)
