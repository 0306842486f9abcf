"""Datasets of clips that are labelled with what is done in them."""

from __future__ import annotations

from collections.abc import Iterator

from stts_jax.data.datasets.academic.shared import (
    ACTION_QUESTIONS,
    PERSON_QUESTIONS,
    Asked,
    ByVideo,
    VideoDataset,
    VideoRecord,
    extensions_of,
)
from stts_jax.data.datasets.base import register
from stts_jax.data.datasets.looked_at import is_dir, is_file
from stts_jax.data.datasets.reading import (
    list_files,
    read_csv,
    read_json,
    read_lines,
    read_parquet,
    truth,
)


@register("moments_in_time_qa")
class MomentsInTime(VideoDataset):
    """Labels of clips of three seconds; a "+" in a label is a space.

    Files: `moments_in_time/Moments_in_Time_Raw/{split}_with_missing_renamed.csv`, which the
    reference's download writes; `{split}-videos-renamed/{transformed_video_path}`. Left out are
    missing videos and labels "child+..." and "adult+...". Source:
    docs/reference.md#training-datasets; `MomentsInTime`.
    """

    splits = ("train", "validation")
    home = "moments.csail.mit.edu"
    folder = "moments_in_time/Moments_in_Time_Raw"

    def collect(self) -> Iterator[VideoRecord]:
        by_video = ByVideo()
        path = self.file(f"{self.split}_with_missing_renamed.csv")
        for row in read_csv(path, ("label", "transformed_video_path", "missing")):
            label = row["label"].replace("+", " ")
            of_whom = "+" in row["label"] and label.startswith(("child ", "adult "))
            if of_whom or truth(row["missing"]):
                continue
            video = f"{self.folder}/{self.split}-videos-renamed/{row['transformed_video_path']}"
            by_video.add(video, Asked("moments_in_time_label", ACTION_QUESTIONS, (label,)))
        return by_video.records()


@register("kinetics_qa")
class Kinetics710(VideoDataset):
    """Labels of Kinetics-700 and, after them, Kinetics-600, in the 710 classes of both.

    Files: `kinetics/kinetics710/{k700,k600}_{train,val}_list_videos.txt` with a path and a class on
    each line, and `k710_label_map.txt`; `kinetics/kinetics_corrupt.parquet`, videos to leave out
    (storage.googleapis.com/molmo-datasets); `kinetics/kinetics_existing_videos.json`, or else the
    folders themselves, tell which are there.
    Videos: `kinetics/kinetics700/{split}/{label}/{name}`, `kinetics/kinetics600/{split}/{label with
    underscores}/{name}`. Source: docs/reference.md#training-datasets; `Kinetics710`.
    """

    splits = ("train", "validation")
    home = "github.com/cvdfoundation/kinetics-dataset"
    folder = "kinetics"

    def collect(self) -> Iterator[VideoRecord]:
        labels = read_lines(self.file("kinetics710/k710_label_map.txt"))
        corrupt = read_parquet(self.file("kinetics_corrupt.parquet"), ("video",))
        usable = self._present() - {row["video"] for row in corrupt}
        by_video = ByVideo()
        for edition in ("700", "600"):
            path = self.file(f"kinetics710/k{edition}_{self.short_split}_list_videos.txt")
            label_of: dict[str, str] = {}
            for line in read_lines(path):
                listed, number = line.split(" ")[:2]
                label_of[listed.rpartition("/")[2]] = labels[int(number)]
            for name, label in label_of.items():
                label_folder = label if edition == "700" else label.replace(" ", "_")
                video = f"kinetics{edition}/{self.short_split}/{label_folder}/{name}"
                if video in usable:
                    draft = Asked("kinetics_label", PERSON_QUESTIONS, (label,))
                    by_video.add(f"{self.folder}/{video}", draft)
        return by_video.records()

    def _present(self) -> frozenset[str]:
        known = self.file("kinetics_existing_videos.json")
        if is_file(known):
            return frozenset(read_json(known))
        found: set[str] = set()
        for edition in ("kinetics700", "kinetics600"):
            folder = self.file(f"{edition}/{self.short_split}")
            names = list_files(folder, below=True) if is_dir(folder) else ()
            found.update(f"{edition}/{self.short_split}/{name}" for name in names)
        return frozenset(found)


@register("charades_sta_all_qa", "charades_sta_qa")
class CharadesSTA(VideoDataset):
    """Sentences on clips of everyday actions.

    Files: `Charades/charades_sta_train.txt`, lines "video start end##sentence";
    `Charades/Charades_v1/{video}.mp4`, of which `existing_videos.json`, or else the folder, tells
    which are there. Source: docs/reference.md#training-datasets; `CharadesSTA`.
    """

    home = "github.com/jiyanggao/TALL"
    folder = "Charades"

    def collect(self) -> Iterator[VideoRecord]:
        known = self.file("existing_videos.json")
        present = (
            frozenset(read_json(known))
            if is_file(known)
            else {name.removesuffix(".mp4") for name in list_files(self.file("Charades_v1"))}
        )
        by_video = ByVideo()
        for line in read_lines(self.file("charades_sta_train.txt")):
            clip, sentence = line.split("##")
            video, *times = clip.split(" ")
            start, end = map(float, times)
            if video in present and start < end:
                draft = Asked("charades_sta", PERSON_QUESTIONS, (sentence,))
                by_video.add(f"{self.folder}/Charades_v1/{video}.mp4", draft, clip=(start, end))
        return by_video.records()


@register("coin_all_qa", "coin_qa")
class COIN(VideoDataset):
    """Labels of the steps of everyday tasks.

    Files: `coin/COIN.json`; `coin/coin_corrupt.parquet`, clips to leave out
    (storage.googleapis.com/molmo-datasets); `coin/videos/{video}` with the extension that
    `file_extensions.json`, or else the folder, tells.
    Source: docs/reference.md#training-datasets; `COIN`.
    """

    splits = ("train", "test")
    home = "coin-dataset.github.io"
    folder = "coin"

    def collect(self) -> Iterator[VideoRecord]:
        extensions = extensions_of(self.file("file_extensions.json"), self.file("videos"))
        corrupt = {
            (row["video_id"], row["metadata"]["clip_start_time"], row["metadata"]["clip_end_time"])
            for row in read_parquet(self.file("coin_corrupt.parquet"), ("video_id", "metadata"))
        }
        by_video = ByVideo()
        for name, video in read_json(self.file("COIN.json"))["database"].items():
            extension = extensions.get(name)
            if self.split not in video["subset"] or extension is None:
                continue
            for clip in video["annotation"]:
                segment = clip.get("segment")
                if segment is None or segment[1] <= segment[0] or (name, *segment) in corrupt:
                    continue
                draft = Asked("coin_label", ACTION_QUESTIONS, (clip["label"],))
                path = f"{self.folder}/videos/{name}{extension}"
                by_video.add(path, draft, clip=tuple(segment))
        return by_video.records()


@register("epic_kitchens_qa")
class EpicKitchens(VideoDataset):
    """Narrations of what is done in a kitchen.

    Files: `epic-kitchens/epic-kitchens-100-annotations/EPIC_100_train_with_missing.csv`, which the
    reference's download writes; without it, `EPIC_100_{split}.csv`, of which the clips that are
    there are taken. `epic-kitchens-clips/{participant}/videos/{video_id}_{start}_{end}.mp4`, three
    decimals. Four clips are damaged. Source: docs/reference.md#training-datasets; `EpicKitchens`.
    """

    splits = ("train", "validation")
    home = "epic-kitchens.github.io"
    folder = "epic-kitchens/epic-kitchens-100-annotations"

    CLIPS = "epic-kitchens-clips"
    CORRUPT = (
        "P01_102_229.910_234.300.mp4",
        "P01_102_90.240_93.490.mp4",
        "P01_104_65.170_92.450.mp4",
        "P02_118_722.700_723.550.mp4",
    )
    COLUMNS = ("participant_id", "video_id", "start_timestamp", "stop_timestamp", "narration")

    def collect(self) -> Iterator[VideoRecord]:
        path = self.file("EPIC_100_train_with_missing.csv")
        listed = self.split == "train" and is_file(path)
        columns: tuple[str, ...] = self.COLUMNS
        if listed:
            columns = (*columns, "missing")
        else:
            path = self.file(f"EPIC_100_{self.split}.csv")
        by_video = ByVideo()
        for row in read_csv(path, columns):
            start, end = seconds(row["start_timestamp"]), seconds(row["stop_timestamp"])
            name = f"{row['video_id']}_{start:.3f}_{end:.3f}.mp4"
            video = f"{self.CLIPS}/{row['participant_id']}/videos/{name}"
            missing = truth(row["missing"]) if listed else not is_file(self.root / video)
            if not missing and name not in self.CORRUPT:
                draft = Asked("epic_kitchens_label", ACTION_QUESTIONS, (row["narration"],))
                by_video.add(video, draft)
        return by_video.records()


def seconds(time: str) -> float:
    """Returns the seconds of a time of day like "00:01:02.50"."""
    hours, minutes, rest = time.split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(rest)
