"""Files of subtitles, SubRip (.srt) and WebVTT (.vtt)."""

from __future__ import annotations

import codecs
import functools
import html
import re
from pathlib import Path

from stts_jax.data.datasets.base import DatasetError
from stts_jax.data.datasets.regular_file import require_regular_file

LARGEST_FILE = 10_000_000  # bytes; a film's are 200 KB
REMEMBERED_FILES = 64  # the lines of a JSONL file are often about the same few videos
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    *((mark, "utf-16") for mark in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)),
)
# Neither takes longer than the text is long, whatever is in it.
_TAGS = re.compile(r"</?[A-Za-z][^<>]*>|<\d\d:[^<>]*>|\{\\[^{}]*\}")
_BLANK_LINES = re.compile(r"\n[ \t]*(?:\n[ \t]*)+\n")


@functools.lru_cache(REMEMBERED_FILES)
def read_subtitle_file(path: Path) -> tuple[tuple[float, float, str], ...]:
    """The lines of a file as (start, end, text), in seconds of the video; tags are left out.

    Raises:
      DatasetError: if there is no such file, or it holds no subtitles.
    """
    import pysubs2  # imported where it is used, as few have such files

    require_regular_file(path, "a .srt or .vtt file", DatasetError)
    if path.stat().st_size > LARGEST_FILE:
        raise DatasetError(
            f"'{path}' has more than {LARGEST_FILE} bytes, too many for subtitles; check the path"
        )
    text = _BLANK_LINES.sub("\n\n", _decoded(path).replace("\r\n", "\n").replace("\r", "\n"))
    kind = "vtt" if text.startswith("WEBVTT") else "srt"  # by content: endings are often wrong
    try:
        events = pysubs2.SSAFile.from_string(text, format_=kind, keep_html_tags=True)
    except Exception as error:  # whatever the library makes of a damaged file
        raise DatasetError(f"'{path}' cannot be read as {kind}: {error}; correct it") from error
    lines = []
    for event in events:
        if event.end < event.start:
            raise DatasetError(
                f"'{path}' has a line that ends at {event.end / 1000:g} s, before its start at "
                f"{event.start / 1000:g} s; correct it"
            )
        if said := _plain(event.text, kind):
            lines.append((event.start / 1000, event.end / 1000, said))
    if not lines:
        raise DatasetError(f"'{path}' holds no subtitles in the form of .srt or .vtt; check it")
    return tuple(lines)


def _decoded(path: Path) -> str:
    content = path.read_bytes()
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"'{path}' is neither UTF-8 nor UTF-16 text; save it as UTF-8"
        ) from error


def _plain(text: str, kind: str) -> str:
    """Joins what is said to one line without tags."""
    lines = text.split(r"\N")
    if kind == "vtt":  # a blank line ends a cue; a comment or the next one's name may follow
        lines = lines[: next((k for k, line in enumerate(lines) if not line.strip()), None)]
    said = " ".join(_TAGS.sub("", " ".join(lines)).split())
    return html.unescape(said) if kind == "vtt" else said
