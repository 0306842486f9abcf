"""From a video file to patches, with an optional cache, and an account of what can't be read."""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass, field
from pathlib import Path

from stts_jax.config import VitConfig
from stts_jax.data.image import resize, to_patches
from stts_jax.data.preprocess import Frames
from stts_jax.data.video import read_video

logger = logging.getLogger(__name__)

# The share of bad examples is judged against at least this many, so that one early bad example
# doesn't stop a run.
JUDGED_AFTER = 100


class BadExamplesError(ValueError):
    """Too many examples could not be read; the message is the report."""


@dataclass
class FrameReader:
    """Reads videos as patches.

    Attributes:
      vit: size of frames and patches.
      max_frames, fps: see `video.sample_times`.
      keep: keep the patches of every video in memory, otherwise only those of the last one (many
        questions in a row are about the same video).
    """

    vit: VitConfig
    max_frames: int
    fps: float
    keep: bool = False
    _kept: dict[Path, Frames] = field(default_factory=dict, repr=False)

    def read(self, path: Path) -> Frames:
        """Frames of a video, cut to patches.

        Raises:
          VideoError: if it can't be read.
        """
        if path in self._kept:
            return self._kept[path]
        shrink = functools.partial(resize, size=self.vit.image_size)
        video = read_video(path, self.max_frames, self.fps, transform=shrink)
        frames = Frames(to_patches(video.frames, self.vit.patch_size), video.timestamps)
        if not self.keep:
            self._kept.clear()
        self._kept[path] = frames
        return frames


@dataclass(frozen=True)
class Unreadable:
    """Stands in the stream for an example that could not be read."""

    example: int
    reason: str


@dataclass
class BadExamples:
    """Counts and names examples that could not be read, and stops a run with too many.

    Attributes:
      total: examples in the set.
      max_share: of them that may be bad (`data.max_bad_share`).
      reasons: by number of the example.
    """

    total: int
    max_share: float
    reasons: dict[int, str] = field(default_factory=dict)
    _seen: set[int] = field(default_factory=set, repr=False)

    def see(self, example: int) -> None:
        """Note an example that was read."""
        self._seen.add(example)

    def add(self, bad: Unreadable) -> None:
        """Note a bad example.

        Raises:
          BadExamplesError: if there are too many.
        """
        self._seen.add(bad.example)
        if bad.example in self.reasons:
            return
        logger.warning("example %d is left out: %s", bad.example, bad.reason)
        self.reasons[bad.example] = bad.reason
        judged = max(len(self._seen), min(self.total, JUDGED_AFTER))
        if len(self.reasons) > self.max_share * judged:
            raise BadExamplesError(self.report())

    def report(self) -> str:
        """What is wrong, example by example; empty if nothing is."""
        if not self.reasons:
            return ""
        head = (
            f"{len(self.reasons)} of {len(self._seen)} examples could not be read (up to "
            f"data.max_bad_share={self.max_share:g} are left out); mend or remove them:"
        )
        shown = list(self.reasons.values())[:10]
        more = len(self.reasons) - len(shown)
        return "\n".join([head, *shown, *([f"and {more} more"] if more else [])])
