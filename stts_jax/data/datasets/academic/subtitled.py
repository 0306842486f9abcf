"""Other datasets of questions with options that come with subtitles, and their siblings without."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from stts_jax.data.datasets.academic.shared import (
    MULTIPLE_CHOICE,
    MULTIPLE_CHOICE_WITH_SUBTITLE,
    Choice,
    UnplacedChoice,
    VideoDataset,
    VideoRecord,
)
from stts_jax.data.datasets.base import DatasetError, SourceExample, Subtitles, register
from stts_jax.data.datasets.looked_at import is_dir
from stts_jax.data.datasets.reading import list_files, read_hub_table, whole_number


@register("cinepile_with_sub")
class CinePile(VideoDataset):
    """Questions on scenes of films, with subtitles as one text, without its "<subtitle>" marks.

    Files: `cinepile/hf_dataset`, a table with `video_id`, `movie_name`, `subtitles`, `examples`;
    `cinepile/videos/{video_id}/{video_id}.mp4`. Source: docs/reference.md#training-datasets;
    `CinepileHf`.
    """

    splits = ("train", "test")
    home = "huggingface.co/datasets/allenai/Molmo2-cinepile"
    folder = "cinepile"

    with_subtitle: ClassVar[bool] = True

    def collect(self) -> Iterator[VideoRecord]:
        columns = ("video_id", "movie_name", "subtitles", "examples")
        for row in read_hub_table(self.file("hf_dataset"), self.split, columns):
            spoken = (row["subtitles"] or "") if self.with_subtitle else ""
            style = MULTIPLE_CHOICE_WITH_SUBTITLE if spoken else MULTIPLE_CHOICE
            drafts = [
                Choice(
                    asked["question"],
                    asked["choices"],
                    whole_number(asked["answer_key_position"]),
                    style,
                )
                for asked in row["examples"]
            ]
            if drafts:
                name = row["video_id"]
                yield VideoRecord(
                    f"{self.folder}/videos/{name}/{name}.mp4",
                    drafts,
                    subtitle=spoken.replace("<subtitle> ", "").strip() or None,
                    metadata={"video_id": name, "movie_name": row["movie_name"]},
                )


@register("cinepile")
class CinePileWithoutSubtitle(CinePile):
    """The same questions without the subtitles. Source: get_dataset.py, `cinepile`."""

    with_subtitle = False


@register("molmo2_syn_captions_qa", "vixmo_syn_video_capqa_v2")
class CaptionQA(VideoDataset):
    """Questions made from captions; the position of the answer is random.

    The reference's mixtures name it `vixmo_syn_video_capqa_v2`, but know it only by the first name.
    Files: `Molmo2-VideoCapQA`, a table with `video_id`, `Question`, `Answer`, `NegativeAnswers`;
    `youtube-cc/{youtube-cc-exist,youtube-cc-kw,youtube-cc-temporal}/{video_id}/`, a folder with the
    video. Questions whose video is absent are left out (the reference stops at the first).
    Source: docs/reference.md#training-datasets; olmo/data/molmo2_datasets.py,
    `Molmo2SynCaptionsQA`.
    """

    home = "huggingface.co/datasets/allenai/Molmo2-VideoCapQA"
    folder = "Molmo2-VideoCapQA"

    hub_split: ClassVar[str] = "CapQA"
    more_columns: ClassVar[tuple[str, ...]] = ()
    VIDEOS = ("youtube-cc-exist", "youtube-cc-kw", "youtube-cc-temporal")
    EXTENSIONS = (".mp4", ".mov", ".mkv", ".webm")

    def collect(self) -> Iterator[VideoRecord]:
        folders = self._video_folders()
        columns = ("video_id", "Question", "Answer", "NegativeAnswers", *self.more_columns)
        by_id: dict[str, list[dict[str, Any]]] = {}
        for row in read_hub_table(self.file(""), self.hub_split, columns):
            if row["video_id"] in folders:
                by_id.setdefault(row["video_id"], []).append(row)
        for name, rows in by_id.items():
            yield VideoRecord(
                folders[name],
                [
                    UnplacedChoice(row["Question"], row["Answer"], list(row["NegativeAnswers"]))
                    for row in rows
                ],
                subtitle=self.subtitle_of(rows[0]),
                metadata={"example_id": f"molmo2_syn_qa_{name}"},
            )

    def example(self, record: VideoRecord, rng: np.random.RandomState) -> SourceExample:
        """See `Dataset.example`; the record names the folder of the video, which is looked up here.

        Raises:
          DatasetError: if it holds no video.
        """
        folder = self.root / record.video
        files = sorted(name for name in list_files(folder) if name.endswith(self.EXTENSIONS))
        if not files:
            raise DatasetError(f"dataset '{self.name}': '{folder}' holds no video")
        return super().example(replace(record, video=f"{record.video}/{files[0]}"), rng)

    def subtitle_of(self, row: dict[str, Any]) -> Subtitles | None:
        """The subtitles of the video that a row is about; all its rows have the same."""
        return None

    def _video_folders(self) -> dict[str, str]:
        """Maps a video's id to its folder, the first of those that have it."""
        found: dict[str, str] = {}
        for name in self.VIDEOS:
            folder = self.root / "youtube-cc" / name
            for video in list_files(folder) if is_dir(folder) else ():
                found.setdefault(video, f"youtube-cc/{name}/{video}")
        return found


@register("molmo2_syn_captions_subtitle_qa", "vixmo_syn_video_capqa_with_sub_v2")
class CaptionQAWithSubtitle(CaptionQA):
    """The same on videos with subtitles, in the style without.

    Files: `Molmo2-VideoSubtitleQA`, with `subtitle` besides, a list of `start`, `end`, `text`.
    Source: docs/reference.md#training-datasets; `Molmo2SynCaptionsSubtitleQA`.
    """

    home = "huggingface.co/datasets/allenai/Molmo2-VideoSubtitleQA"
    folder = "Molmo2-VideoSubtitleQA"

    hub_split = "SubtitleQA"
    more_columns = ("subtitle",)

    def subtitle_of(self, row: dict[str, Any]) -> Subtitles | None:
        return {(line["start"], line["end"]): line["text"] for line in row["subtitle"]} or None
