"""Datasets that ask about clips of a video, and about the whole of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from stts_jax.data.datasets.academic.shared import (
    ACTION_QUESTIONS,
    Asked,
    ByVideo,
    Clip,
    Fixed,
    VideoDataset,
    VideoRecord,
    extensions_of,
    short_answer,
)
from stts_jax.data.datasets.base import register
from stts_jax.data.datasets.looked_at import is_file
from stts_jax.data.datasets.reading import (
    Row,
    list_files,
    read_json,
    read_json_lines,
    read_json_rows,
    read_parquet,
)

# A video, a clip of it or None, and what is asked about that.
Asking = tuple[str, Clip | None, Asked]


@register("youcook2_all_qa")
class YouCook2(VideoDataset):
    """Steps of recipes: asked for on the clip, and by start and end on the whole video.

    The reference gives the steps of whole videos a style that no rule of its formatter knows, so
    that the times do not get into the prompt and the steps cannot be told apart. Here they have
    the style whose prompts name them. `youcook2_all_qa_without_times` is as the reference has it.

    Files: `youcook2/youcookii_annotations_trainval.json`; `youcook2/videos/{video}` with the
    extension that `video_extensions.json`, or else the folder, tells. Two clips are damaged.
    Source: docs/reference.md#training-datasets and #what-is-odd; `Youcook2`.
    """

    splits = ("train", "validation")
    home = "youcook2.eecs.umich.edu"
    folder = "youcook2"

    style_of_times: ClassVar[str] = "video_clip_caption_start_end"
    CORRUPT = (("UB1_MNpdvgs", 595, 613), ("UB1_MNpdvgs", 624, 635))

    def collect(self) -> Iterator[VideoRecord]:
        extensions = extensions_of(self.file("video_extensions.json"), self.file("videos"))
        by_video = ByVideo()
        path = self.file("youcookii_annotations_trainval.json")
        for name, video in read_json(path)["database"].items():
            extension = extensions.get(name)
            if self.split not in video["subset"] or extension is None:
                continue
            for step in video["annotations"]:
                start, end = step.get("segment") or (0, 0)
                if end <= start:
                    continue
                text = step["sentence"].removesuffix(".") + "."
                file = f"{self.folder}/videos/{name}{extension}"
                if (name, start, end) not in self.CORRUPT:
                    draft = Asked("youcook2_label", ACTION_QUESTIONS, (text,))
                    by_video.add(file, draft, clip=(start, end))
                times = {"start_time": start, "end_time": end}
                by_video.add(file, Fixed({"style": self.style_of_times, **times, "text": text}))
        return by_video.records()


@register("youcook2_all_qa_without_times")
class YouCook2WithoutTimes(YouCook2):
    """The same with the style of the reference, the prompt of which is the style alone."""

    style_of_times = "video_clip_short_caption_start_end"


@register("activitynet_all_qa")
class ActivityNet(VideoDataset):
    """Labels of activities in clips, and questions on whole videos.

    As in the reference, the labels are of all videos, those of the validation subset too, whichever
    split is asked for; so nothing trained on this should be evaluated on that subset.
    `activitynet_all_qa_own_subset` takes the labels of the split alone.

    Files: `ActivityNet/activity_net.v1-3.min.json`; `{train,val}_q.json` and `{train,val}_a.json`
    of ActivityNet-QA, joined by `question_id`; `ActivityNet/all-videos/{video}/{video}.mp4` or
    `all-videos/{video}.mp4`. Videos that are absent, or that `missing_videos.json` names, are left
    out. Source: docs/reference.md#training-datasets and #what-is-odd; `ActivityNet`.
    """

    splits = ("train", "validation")
    home = "activity-net.org and github.com/MILVLG/activitynet-qa"
    folder = "ActivityNet"

    labels_of_all_subsets: ClassVar[bool] = True
    QUESTIONS = (
        "What activity is being performed?",
        "What activity is occurring?",
        "What activity does the video depict?",
    )

    def collect(self) -> Iterator[VideoRecord]:
        listed = self.file("missing_videos.json")
        missing = frozenset(read_json(listed) if is_file(listed) else ())
        present = list_files(self.file("all-videos"))
        by_video = ByVideo()
        for video, clip, draft in (*self._labels(), *self._questions()):
            file = self._video(video, present)
            if file is None or video in missing:
                continue
            # Annotators may give one clip the same label twice.
            if clip is None or draft not in by_video.drafts(file, clip):
                by_video.add(file, draft, clip=clip)
        return by_video.records()

    def _video(self, name: str, present: frozenset[str]) -> str | None:
        if name in present:
            return f"{self.folder}/all-videos/{name}/{name}.mp4"
        return f"{self.folder}/all-videos/{name}.mp4" if f"{name}.mp4" in present else None

    def _labels(self) -> Iterator[Asking]:
        for name, video in read_json(self.file("activity_net.v1-3.min.json"))["database"].items():
            if not self.labels_of_all_subsets and not video["subset"].startswith(self.split):
                continue
            for activity in video["annotations"]:
                start, end = activity["segment"]
                if start is not None and end is not None and start < end:
                    label = (activity["label"],)
                    yield name, (start, end), Asked("activitynet_label", self.QUESTIONS, label)

    def _questions(self) -> Iterator[Asking]:
        columns: tuple[str, ...] = ("question_id", "answer")
        rows = read_json_rows(self.file(f"{self.short_split}_a.json"), columns)
        answers = {row["question_id"]: row["answer"] for row in rows}
        columns = ("question_id", "video_name", "question")
        for row in read_json_rows(self.file(f"{self.short_split}_q.json"), columns):
            if row["question_id"] in answers:
                asked = row["question"]
                question = asked if asked.endswith("?") else asked.strip() + "?"
                answer = answers[row["question_id"]]
                yield row["video_name"], None, short_answer(question, answer)


@register("activitynet_all_qa_own_subset")
class ActivityNetOwnSubset(ActivityNet):
    """The same with the labels of the split's own videos alone, which the reference does not do."""

    labels_of_all_subsets = False


@register("ego4d_all")
class Ego4D(VideoDataset):
    """Moments of everyday life, labelled and looked for, on clips that were cut beforehand.

    Files: `Ego4d/ego4d_cached_train_metadata.jsonl`, or else the `.parquet` that is published with
    the same rows; `ego4d-clips/{clip}`. Damaged clips are marked in it and left out.
    Source: docs/reference.md#training-datasets; `Ego4dCachedClips`, whose download fetches the one
    and which reads the other.
    """

    home = "ego4d-data.org and storage.googleapis.com/molmo-datasets"
    folder = "Ego4d"

    def collect(self) -> Iterator[VideoRecord]:
        for row in self._rows():
            drafts = [
                Asked(asked["style"], (asked["question"],), (str(asked["answer"]),))
                for asked in row["message_list"]
            ]
            if drafts and not row.get("corrupt"):
                yield VideoRecord(f"ego4d-clips/{row['clip']}", drafts)

    def _rows(self) -> list[Row]:
        lines = self.file("ego4d_cached_train_metadata.jsonl")
        table = lines.with_suffix(".parquet")
        if is_file(table) and not is_file(lines):
            return read_parquet(table, ("clip", "message_list", "corrupt"))
        return read_json_lines(lines, ("clip", "message_list"))
