"""Settings of the data and of packed rows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from stts_jax.config.checks import require, require_positive, require_within_limits
from stts_jax.quoting import shorten

# Which lines of subtitles are shown.
NUMBERED_SUBTITLES = r"(frame|truncate)_(\d{1,9})"
SUBTITLES = rf"{NUMBERED_SUBTITLES}|all|ignore"
# What `data.train` begins with where it names a folder of shards.
SHARDS = "shards:"


@dataclass(frozen=True)
class DataConfig:
    """Sources of the data and the making of rows.

    Attributes:
      train: training data: a file or folder of own data (docs/data.md); `mixture:NAME`,
        `dataset:NAME` or `dataset:NAME:SPLIT` for published data; `synthetic` for the embedded
        procedural set, `synthetic_pictures` for its pictures; `shards:DIR` for what `python -m
        stts_jax.data shard --file FILE --out DIR` has written.
      validation: data of the evaluations during training: as `train`, but no mixture or shards.
      test: data of `eval.py`: as `validation`.
      root: folder that contains the published datasets.
      usable: file that lists the published examples to take, from `python -m stts_jax.data check
        --write-usable FILE`; empty takes all. It is applied to validation and test only where it
        lists something of them.
      tokenizer: `tiny` for the embedded one, or the path of a `tokenizer.json`.
      wording: how own data are worded: by `templates`, as published models were trained, or
        `plain`, as they stand.
      max_frames: frames sampled from a video, at most.
      fps: frames per second that are sampled where the video is short enough.
      frame_tokens: where `<frame_start>` and `<frame_end>` stand: around each `frame`, as the STTS
        weights were trained, or once around the `video`.
      subtitles: which lines of subtitles are shown: `frame_N` those within N seconds of a frame,
        `all`, `ignore` none, or `truncate_K` the first K tokens of all.
      decoder: library that decodes: `pyav`, or one that the extra `video` installs, `torchcodec` or
        `decord2`.
      max_crops: overlapping crops of an image, at most; one of the whole comes on top.
      max_images: images in an example, at most.
      row_frames: frames and crops that one row has room for.
      row_examples: examples that one row has room for.
      row_text_tokens: text tokens that one row has room for; the visual tokens that survive the
        prune come on top.
      batch_rows: rows in a batch, over all devices.
      questions_per_video: questions of own data that share one video in a row, at most.
      topk: if given, must equal model.prune.topk; the reference states the ratio twice.
      seed: of the order of examples and of random choices in them.
      workers: processes that decode; 0 decodes in the main process.
      cache_frames: keep decoded frames in memory (small sets only).
      max_bad_share: the run stops when more than this share of the examples cannot be read or
        fit no row.
    """

    train: str = "synthetic"
    validation: str = "synthetic"
    test: str = "synthetic"
    root: str = ""
    usable: str = ""
    tokenizer: str = "tiny"
    wording: Literal["templates", "plain"] = "templates"
    max_frames: int = 64
    fps: float = 2.0
    frame_tokens: Literal["frame", "video"] = "frame"
    subtitles: str = "frame_1"
    decoder: Literal["pyav", "torchcodec", "decord2"] = "pyav"
    max_crops: int = 8
    max_images: int = 5
    row_frames: int = 64
    row_examples: int = 1
    row_text_tokens: int = 2048
    batch_rows: int = 8
    questions_per_video: int = 8
    topk: float | None = None
    seed: int = 0
    workers: int = 0
    cache_frames: bool = False
    max_bad_share: float = 0.1

    def __post_init__(self) -> None:
        require_within_limits("data", self)
        require_positive("data", self, "max_frames", "fps", "row_frames", "row_examples")
        require_positive("data", self, "row_text_tokens", "batch_rows", "questions_per_video")
        require_positive("data", self, "max_crops", "max_images")
        require(
            self.max_frames <= self.row_frames,
            f"data.max_frames is {self.max_frames}, more than the data.row_frames="
            f"{self.row_frames} that a row holds; lower the one or raise the other",
        )
        require(
            re.fullmatch(SUBTITLES, self.subtitles) is not None,
            f"data.subtitles is {shorten(self.subtitles)}; use frame_N with seconds, all, ignore, "
            "or truncate_K with tokens",
        )
        require(self.seed >= 0, f"data.seed is {self.seed}; use 0 or more")
        require(self.workers >= 0, f"data.workers is {self.workers}; use 0 or more")
        require(
            0.0 <= self.max_bad_share <= 1.0,
            f"data.max_bad_share is {self.max_bad_share}; it is a share, from 0 to 1",
        )
        published = [s for s in (self.train, self.validation, self.test) if is_published(s)]
        require(
            not published or bool(self.root),
            f"data.root is empty, but {shorten(published[0] if published else '')} lies below it; "
            "set it to the folder of all datasets",
        )
        self._check_shards()

    def _check_shards(self) -> None:
        for name in ("validation", "test"):
            value = getattr(self, name)
            require(
                not value.startswith(SHARDS),
                f"data.{name} is {shorten(value)}, and shards are for training alone; name the "
                "data themselves",
            )
        require(
            not (self.train.startswith(SHARDS) and self.usable),
            f"data.usable is {shorten(self.usable)}, and shards hold what was taken when they were "
            "made; leave it empty, or make shards with it",
        )


def is_published(source: str) -> bool:
    """Returns whether `data.train` (or another split) names a registered dataset or mixture."""
    return source.startswith(("mixture:", "dataset:"))
