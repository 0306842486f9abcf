"""Datasets of questions with a short answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stts_jax.data.datasets.academic.shared import (
    SHORT_ANSWER,
    Asked,
    ByVideo,
    VideoDataset,
    VideoRecord,
    short_answer,
)
from stts_jax.data.datasets.base import DatasetError, register
from stts_jax.data.datasets.looked_at import is_file
from stts_jax.data.datasets.reading import (
    list_files,
    read_csv,
    read_json,
    read_json_lines,
    read_json_rows,
)


@register("news_video_qa_filtered")
class NewsVideoQA(VideoDataset):
    """Questions on news, mostly on text that is shown; those without an answer are left out.

    Files: `NewsVideoQA/final_data_feb_16/json_files/raw_files/new_{split}.json`; videos in
    `final_data_feb_16/videos/{split}/{uni_clipped_id}.mp4`, some with a wrong index, which the
    metadata say as the reference does (`decode_method`). Seven videos are damaged.
    Source: docs/reference.md#training-datasets; `NewsVideoQA`.
    """

    splits = ("train", "validation")
    home = "huggingface.co/datasets/allenai/Molmo2-NewsVideoQA"
    folder = "NewsVideoQA/final_data_feb_16"

    CORRUPT = ("389x18", "76x16", "254x17", "254x21", "389x15", "254x20", "389x17")

    def collect(self) -> Iterator[VideoRecord]:
        path = self.file(f"json_files/raw_files/new_{self.short_split}.json")
        by_video = ByVideo()
        for row in read_json_rows(path, ("uni_clipped_id", "question", "answer")):
            if row["uni_clipped_id"] in self.CORRUPT or not row["answer"].strip():
                continue
            video = f"{self.folder}/videos/{self.short_split}/{row['uni_clipped_id']}.mp4"
            by_video.add(video, short_answer(row["question"], row["answer"]))
        return by_video.records(metadata={"decode_method": "av_noseek"})


@register("sportsqa_oe")
class SportsQA(VideoDataset):
    """Questions on sports; those whose video is absent are left out.

    Files: `SportsQA/meta-data/{split}.json`; `SportsQA/{video}.{avi,mp4,webm}`. If
    `all_videos.json` is there, it is taken as the list of the videos, or else the folder.
    Source: docs/reference.md#training-datasets; `SportsQA`.
    """

    splits = ("train", "validation", "test")
    home = "huggingface.co/datasets/HopLeeTop/Sports-QA"
    folder = "SportsQA"

    EXTENSIONS = (".avi", ".mp4", ".webm")

    def collect(self) -> Iterator[VideoRecord]:
        known = self.file("all_videos.json")
        present = (
            frozenset(read_json(known)) if is_file(known) else list_files(self.file(""), below=True)
        )
        path = self.file(f"meta-data/{self.short_split}.json")
        by_video = ByVideo()
        for row in read_json_rows(path, ("video", "question", "answer")):
            names = [row["video"] + extension for extension in self.EXTENSIONS]
            video = next((name for name in names if name in present), None)
            if video is not None:
                by_video.add(f"{self.folder}/{video}", short_answer(row["question"], row["answer"]))
        return by_video.records()


@register("video_localized_narratives")
class VideoLocalizedNarratives(VideoDataset):
    """Questions on what happens in videos of mishaps.

    Files: `video-localized-narratives/videoqa/text_output/oops_{split}/qa_text_output.json`;
    `oops/oops_video/{video_name}.mp4`. Source: docs/reference.md#training-datasets;
    `VideoLocalizedNarratives`.
    """

    splits = ("train", "validation")
    home = "google.github.io/video-localized-narratives"
    folder = "video-localized-narratives"

    def collect(self) -> Iterator[VideoRecord]:
        folder = self.file(f"videoqa/text_output/oops_{self.short_split}")
        for row in read_json(folder / "qa_text_output.json")["annotations"]:
            drafts = [short_answer(qa["raw_question"], qa["raw_answer"]) for qa in row["qa_pairs"]]
            if drafts:
                name = row["video_name"]
                yield VideoRecord(
                    f"oops/oops_video/{name}.mp4", drafts, metadata={"video_name": name}
                )


@register("road_text_vqa")
class RoadTextVQA(VideoDataset):
    """Questions on text along a road; of several answers one is drawn.

    Files: `RoadTextVQA/{split}.json` with the list `data`; `RoadTextVQA/videos/{video}`.
    Source: docs/reference.md#training-datasets; `RoadTextVQA`.
    """

    splits = ("train", "validation")
    home = "github.com/georg3tom/RoadtextVQA"
    folder = "RoadTextVQA"

    def collect(self) -> Iterator[VideoRecord]:
        by_video = ByVideo()
        for row in read_json(self.file(f"{self.short_split}.json"))["data"]:
            if not row["answer"]:
                raise DatasetError(f"the question '{row['question']}' has no answer")
            draft = Asked(SHORT_ANSWER, (row["question"],), tuple(map(str, row["answer"])))
            by_video.add(f"{self.folder}/videos/{row['video']}", draft)
        return by_video.records()


@register("countix_oe")
class Countix(VideoDataset):
    """Counts of a repeated action; the question is drawn from those for its class.

    Files: `countix_train_mapped.csv` and `class_to_question.json`, in `kinetics/kinetics700` or in
    `Countix`; `kinetics/kinetics700/{video_path}`. Each row is an example, also where several are
    of one video. Source: docs/reference.md#training-datasets; `Countix`.
    """

    home = "huggingface.co/datasets/allenai/Molmo2-Countix"
    folder = "Countix"

    VIDEOS = "kinetics/kinetics700"

    def collect(self) -> Iterator[VideoRecord]:
        folder = self._folder()
        questions: Mapping[str, Any] = read_json(folder / "class_to_question.json")
        path = folder / "countix_train_mapped.csv"
        for row in read_csv(path, ("video_path", "class", "count")):
            draft = Asked(SHORT_ANSWER, tuple(questions[row["class"]]), (row["count"],))
            yield VideoRecord(f"{self.VIDEOS}/{row['video_path']}", [draft])

    def _folder(self) -> Path:
        beside_videos = self.root / self.VIDEOS
        has_table = is_file(beside_videos / "countix_train_mapped.csv")
        return beside_videos if has_table else self.file("")


@register("qv_highlights")
class QVHighlights(VideoDataset):
    """In which segments is what a query describes; the answer lists them in seconds.

    Files: `QVHighlights/highlight_{train,val}_release.jsonl`; `QVHighlights/videos/{vid}.mp4`.
    Left out are queries with more than five segments, and those whose video is absent.
    Source: docs/reference.md#training-datasets; `QVHighlights`.
    """

    splits = ("train", "validation")
    home = "github.com/jayleicn/moment_detr"
    folder = "QVHighlights"

    MOST_SEGMENTS = 5

    def collect(self) -> Iterator[VideoRecord]:
        present = list_files(self.file("videos"))
        path = self.file(f"highlight_{self.short_split}_release.jsonl")
        for row in read_json_lines(path, ("qid", "vid", "query", "duration", "relevant_windows")):
            segments, video = row["relevant_windows"], f"{row['vid']}.mp4"
            if len(segments) > self.MOST_SEGMENTS or video not in present:
                continue
            query = row["query"].rstrip(".")
            question = (
                f"Here is a query: {query}. Where are all the segments for the query? "
                "Report the segments in seconds."
            )
            answer = "Segments: " + ", ".join(f"[{start}-{end}]" for start, end in segments)
            yield VideoRecord(
                f"{self.folder}/videos/{video}",
                [short_answer(question, answer)],
                metadata={
                    "example_id": f"{row['qid']}_{row['vid']}",
                    "answer": answer,
                    "query": row["query"],
                    "duration": row["duration"],
                    "relevant_windows": segments,
                },
            )
