"""TVQA: questions on scenes of TV series, which are published as pictures, with subtitles."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from stts_jax.data.datasets.academic.shared import (
    MULTIPLE_CHOICE,
    MULTIPLE_CHOICE_WITH_SUBTITLE,
    ByVideo,
    Choice,
    VideoDataset,
    VideoRecord,
)
from stts_jax.data.datasets.base import register
from stts_jax.data.datasets.looked_at import is_file
from stts_jax.data.datasets.reading import read_json_lines, read_lines, whole_number

PICTURES_PER_SECOND = 3
PICTURES = "TVQA/video-frames/frames_hq"
SERIES: Mapping[str, str] = {
    "Grey's Anatomy": "grey_frames",
    "How I Met You Mother": "met_frames",
    "The Big Bang Theory": "bbt_frames",
    "House M.D.": "house_frames",
    "Castle": "castle_frames",
    "Friends": "friends_frames",
}
CORRUPT = (
    "grey_s03e15_seg02_clip_05/video_00001_00051.mp4",
    "castle_s08e08_seg02_clip_14/video_00001_00019.mp4",
)


@dataclass(frozen=True)
class Scene:
    """The part of an episode that a question is about.

    Attributes:
      series, episode: folders of the pictures `00001.jpg`, `00002.jpg`, ...
      times: "start-end" as published.
      start, end: seconds.
    """

    series: str
    episode: str
    times: str
    start: float
    end: float

    @property
    def pictures(self) -> range:
        """Numbers of the pictures in it, three a second from 1 on."""
        first = int(self.start * PICTURES_PER_SECOND) + 1
        return range(first, int(self.end * PICTURES_PER_SECOND) + 1)

    @property
    def folder(self) -> str:
        """Folder of its pictures and its clip, below the root folder."""
        return f"{PICTURES}/{self.series}/{self.episode}"

    @property
    def clip(self) -> str:
        """File name of the video of it."""
        return f"video_{self.pictures.start:05d}_{self.pictures.stop - 1:05d}.mp4"


def scene_of(row: Mapping[str, Any]) -> Scene | None:
    """The scene that a row is about; None where the times are not numbers."""
    start, end = map(float, row["ts"].split("-"))
    if math.isnan(start) or math.isnan(end):
        return None
    return Scene(SERIES[row["show_name"]], row["vid_name"], row["ts"], start, end)


def read_questions(path: Path) -> list[dict[str, Any]]:
    """Rows of `tvqa_{split}.jsonl`."""
    options = tuple(f"a{number}" for number in range(5))
    return read_json_lines(path, ("q", "answer_idx", "vid_name", "show_name", "ts", *options))


@register("tvqa_with_sub")
class TVQA(VideoDataset):
    """Questions with the lines that are spoken in the scene.

    Files: `TVQA/tvqa_{train,val}.jsonl`, `tvqa_preprocessed_subtitles.jsonl`, and
    `video-frames/frames_hq/{series}/{vid_name}/video_{first:05d}_{last:05d}.mp4`, made of the
    pictures there by `python -m stts_jax.data.datasets.academic.tvqa_clips` (the reference makes
    them when it first reads the dataset). Left out are the scenes that `missing_clips.txt` names,
    or, without that file, those that have no clip.
    Lines count if part of them is spoken in the scene; their times are from its start on. Without
    any, a question has the style without subtitles. Source: docs/reference.md#training-datasets;
    `TVQA`.
    """

    splits = ("train", "validation")
    home = "huggingface.co/datasets/allenai/Molmo2-TVQA"
    folder = "TVQA"

    with_subtitle: ClassVar[bool] = True

    def collect(self) -> Iterator[VideoRecord]:
        missing, lines = self._missing(), self._lines()
        by_video = ByVideo()
        subtitles: dict[str, Mapping[tuple[float, float], str]] = {}
        metadata: dict[str, dict[str, str]] = {}
        for row in read_questions(self.file(f"tvqa_{self.short_split}.jsonl")):
            scene = scene_of(row)
            if scene is None or not self._is_there(scene, missing):
                continue
            video = f"{scene.folder}/{scene.clip}"
            metadata[video] = {"show_name": row["show_name"], "ts": row["ts"]}
            spoken = spoken_within(lines.get(scene.episode, ()), scene.start, scene.end)
            if spoken:
                subtitles[video] = spoken
            style = MULTIPLE_CHOICE_WITH_SUBTITLE if spoken else MULTIPLE_CHOICE
            options = [row[f"a{number}"] for number in range(5)]
            by_video.add(video, Choice(row["q"], options, whole_number(row["answer_idx"]), style))
        for record in by_video.records():
            subtitle = subtitles.get(record.video)
            yield replace(record, subtitle=subtitle, metadata=metadata[record.video])

    def _lines(self) -> Mapping[str, Sequence[Any]]:
        if not self.with_subtitle:
            return {}
        path = self.file("tvqa_preprocessed_subtitles.jsonl")
        return {row["vid_name"]: row["sub"] for row in read_json_lines(path, ("vid_name", "sub"))}

    def _missing(self) -> frozenset[str] | None:
        path = self.file("missing_clips.txt")
        return frozenset(read_lines(path)) if is_file(path) else None

    def _is_there(self, scene: Scene, missing: frozenset[str] | None) -> bool:
        if f"{scene.episode}/{scene.clip}" in CORRUPT:
            return False
        if missing is None:
            return is_file(self.root / scene.folder / scene.clip)
        return f"{scene.series}/{scene.episode}:{scene.times}" not in missing


@register("tvqa")
class TVQAWithoutSubtitle(TVQA):
    """The same questions without the lines. Source: get_dataset.py, `tvqa`."""

    with_subtitle = False


def spoken_within(lines: Any, start: float, end: float) -> dict[tuple[float, float], str]:
    """The lines of which a part is between two times, with times from the first one on.

    Lines that lack a time or their text are left out, and so is what is no list of lines.
    """
    spoken = {}
    for line in lines if isinstance(lines, list) else ():
        try:
            first, last, text = float(line["start"]), float(line["end"]), line["text"]
        except (KeyError, TypeError, ValueError):
            continue
        if last > start and first < end:
            spoken[first - start, last - start] = text
    return spoken
