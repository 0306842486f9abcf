"""Molmo2-VideoPointEval and Molmo2-VideoCountEval: pointing at and counting things in videos."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stts_jax.data.datasets.base import Dataset, DatasetError, SourceExample, register
from stts_jax.data.datasets.reading import Row, read_hub_table
from stts_jax.data.datasets.run_length import TimedMasks, require_decodable

# Folders of the copies at 2 frames per second, by the source that a record names.
FOLDERS = {
    "youtube": (
        "youtube-cc/youtube-cc-exist-2fps",
        "youtube-cc/youtube-cc-kw-2fps",
        "youtube-cc/youtube-cc-temporal-2fps",
    ),
    "MammalNet": ("MammalNet/trimmed_video-2fps",),
    "generated": ("generated_videos",),
}
ALL_FOLDERS = tuple(folder for folders in FOLDERS.values() for folder in folders)
POINT_COLUMNS = (
    *("video_id", "video_duration", "height", "width", "label"),
    *("two_fps_timestamps", "points", "masks"),
)
COUNT_COLUMNS = (
    *("video_id", "video_source", "video_duration", "clip_start", "clip_end"),
    *("label", "question", "count", "category"),
)
MASKS_PER_SECOND = 2
PERCENT_DECIMALS = 1
VIDEOS = (
    "in a folder of that name; its videos, as copies at 2 frames per second called {id}_2fps.mp4, "
    "below youtube-cc, MammalNet and generated_videos"
)


@register("molmo2_video_point_eval", "vixmo_points_point_eval")
class Molmo2VideoPointEval(Dataset):
    """All instances of a label in a video, each pointed at once, and their number.

    A point is right where it is on its instance at a time that has a mask of it. The table has one
    time, point in pixels and list of masks for each instance.

    Source: the reference's `Molmo2VideoPointEval`.
    """

    splits = ("val",)
    home = f"https://huggingface.co/datasets/allenai/Molmo2-VideoPointEval ({VIDEOS})"

    def read(self) -> Sequence[Row]:
        """The rows of the table, with masks as they are published.

        Raises:
          DatasetError: also if masks are packed and pycocotools is not installed.
        """
        rows = read_hub_table(
            self.root / "Molmo2-VideoPointEval",
            self.split,
            POINT_COLUMNS,
            optional=("video_source",),
        )
        require_decodable(
            mask["rle"] for row in rows for instance in row["masks"] for mask in instance
        )
        return rows

    def example(self, record: Row, rng: np.random.RandomState) -> SourceExample:
        """The example of a label; masks are decoded once its answer is scored."""
        identity, label = record["video_id"], record["label"]
        times, points, masks = (record[n] for n in ("two_fps_timestamps", "points", "masks"))
        if not len(times) == len(points) == len(masks):
            raise DatasetError(
                f"{len(times)} times, {len(points)} points and {len(masks)} lists of masks are "
                f"given for '{label}' in the video '{identity}', which should be as many of each; "
                "download the annotations again"
            )
        width, height = record["width"], record["height"]
        annotation = {
            "style": "video_point_count",
            "label": label,
            "question": f'How many "{label}" are there in the video?',
            "timestamps": times,
            # Each frame has a list of points, here of one.
            "points": [
                [{"x": _percent(point["x"], width), "y": _percent(point["y"], height)}]
                for point in points
            ],
        }
        metadata = {
            "example_id": f"{identity}_{label}",
            "gt_abs_triplets": [
                (time, point["x"], point["y"]) for time, point in zip(times, points, strict=True)
            ],
            "gt_abs_masks": [
                TimedMasks({mask["frame_id"] / MASKS_PER_SECOND: mask["rle"] for mask in instance})
                for instance in masks
            ],
            "video_duration": record["video_duration"],
            "video_height": height,
            "video_width": width,
        }
        video = two_fps_video(self.root, identity, record.get("video_source"))
        return SourceExample((annotation,), video=video, metadata=metadata)


@register("molmo2_video_count_eval", "vixmo_points_count_clip_63s")
class Molmo2VideoCountEval(Dataset):
    """Counts of objects, animals, or actions and events in a part of a video.

    The files hold whole videos; the part, of a minute at most, is cut out as they are read.

    Source: the reference's `Molmo2VideoCountEval`.
    """

    splits = ("val",)
    home = f"https://huggingface.co/datasets/allenai/Molmo2-VideoCountEval ({VIDEOS})"

    def read(self) -> Sequence[Row]:
        """The rows of the table."""
        return read_hub_table(self.root / "Molmo2-VideoCountEval", self.split, COUNT_COLUMNS)

    def example(self, record: Row, rng: np.random.RandomState) -> SourceExample:
        """The example of a question."""
        identity, start, end = record["video_id"], record["clip_start"], record["clip_end"]
        annotation = {
            "style": "video_count",
            "label": record["label"],
            "question": record["question"],
            "answer": str(record["count"]),
            "count": record["count"],
        }
        metadata = {
            "example_id": f"{identity}_{record['label']}",
            "video_id": identity,
            "subset": record["category"],
            "count": record["count"],
            "video_duration": record["video_duration"],
            "clip_start_time": start,
            "clip_end_time": end,
        }
        return SourceExample(
            (annotation,),
            video=two_fps_video(self.root, identity, record["video_source"]),
            clip=None if start is None else (start, end),
            metadata=metadata,
        )


def two_fps_video(root: Path, identity: str, source: str | None = None) -> Path:
    """Returns the path of the copy of a video at 2 frames per second, also if there is none.

    Args:
      root: holds the folders of all datasets.
      identity: of the video; in "sora2/a" the part before the slash names a folder "sora2-2fps".
      source: one of `FOLDERS`; all folders are looked through if it is another or None.
    """
    above, _, name = identity.rpartition("/")
    candidates = [
        root / folder / (f"{above}-2fps" if above else "") / f"{name}_2fps.mp4"
        for folder in FOLDERS.get(source or "", ALL_FOLDERS)
    ]
    return next((path for path in candidates if path.is_file()), candidates[0])


def _percent(part: float, whole: float) -> float:
    return round(part / whole * 100, PERCENT_DECIMALS)
