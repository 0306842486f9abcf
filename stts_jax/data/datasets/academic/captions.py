"""Datasets of captions."""

from __future__ import annotations

from collections.abc import Iterator

from stts_jax.data.datasets.academic.shared import Fixed, VideoDataset, VideoRecord
from stts_jax.data.datasets.base import register
from stts_jax.data.datasets.reading import read_hub_table, read_json_lines


@register("motionbench_train", "motionbench_caption")
class MotionBenchCaption(VideoDataset):
    """Captions of motions.

    Files: `MotionBench/MotionBenchCaption-train/train.jsonl`; `.../videos/{video_path}`. The
    questions beside it are not read. Source: docs/reference.md#training-datasets;
    `MotionBenchCaption`.
    """

    home = "huggingface.co/datasets/zai-org/MotionBench"
    folder = "MotionBench/MotionBenchCaption-train"

    def collect(self) -> Iterator[VideoRecord]:
        for row in read_json_lines(self.file("train.jsonl"), ("video_path", "motion_caption")):
            caption = Fixed({"style": "video_motion_caption", "text": row["motion_caption"]})
            yield VideoRecord(f"{self.folder}/videos/{row['video_path']}", [caption])


@register("video_localized_narratives_caption")
class VideoLocalizedNarrativesCaption(VideoDataset):
    """Captions of what each actor of a video does, one for each actor.

    Files: `video-localized-narratives/hf_dataset`, a table with `id`, `video`, `captions` and
    `actor_names`; videos of OOPS, Kinetics, UVO and OVIS, by their path below the root folder.
    Source: docs/reference.md#training-datasets; `VideoLocalizedNarrativesCaptionHf`.
    """

    home = "huggingface.co/datasets/allenai/Molmo2-VideoLocalizedNarrativesCaptionHf"
    folder = "video-localized-narratives"

    def collect(self) -> Iterator[VideoRecord]:
        columns = ("id", "video", "captions", "actor_names")
        for row in read_hub_table(self.file("hf_dataset"), self.split, columns):
            drafts = [
                Fixed({"style": "video_object_caption", "text": caption, "object": actor.lower()})
                for caption, actor in zip(row["captions"], row["actor_names"], strict=False)
            ]
            yield VideoRecord(row["video"], drafts, metadata={"id": row["id"]})
