"""Videos whose content comes with their example: the bytes of a file, or the frames themselves."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

_ENDING = re.compile(r"\.\w{1,16}", re.ASCII)


@dataclass(frozen=True)
class StoredClip:
    """The bytes of the file of a video.

    Attributes:
      name: path that the file had, for messages; decoders see its ending.
      content: of the file.
    """

    name: str
    content: bytes | memoryview = field(repr=False, compare=False)

    @contextlib.contextmanager
    def opened(self) -> Iterator[Path]:
        """Yields the path of a file of this content, in memory where the system can do that.

        A process that is killed leaves an empty folder and a link to nothing.
        """
        ending = _ENDING.fullmatch(Path(self.name).suffix)
        with tempfile.TemporaryDirectory(prefix="stts-clip-") as folder:
            path = Path(folder) / f"clip{ending.group() if ending else ''}"
            if not hasattr(os, "memfd_create"):
                path.write_bytes(self.content)
                yield path
                return
            with os.fdopen(os.memfd_create("clip"), "wb") as file:
                file.write(self.content)
                file.flush()
                path.symlink_to(f"/proc/{os.getpid()}/fd/{file.fileno()}")
                yield path


@dataclass(frozen=True, eq=False)
class StoredFrames:
    """The frames of a video as they are sampled and resized for the model.

    Attributes:
      frames: (n, S, S, 3) uint8.
      timestamps: (n,) float64 seconds, see `video.reading.Video`.
      target_fps, augmentation: see there.
      video_size: width and height of the frames as the file had them.
    """

    frames: np.ndarray = field(repr=False)
    timestamps: np.ndarray
    target_fps: float | None
    augmentation: str | None
    video_size: tuple[int, int] | None


@dataclass(frozen=True, eq=False)
class GivenFrames:
    """The frames of a video as a user has them in memory; all of them are shown.

    Attributes:
      frames: (n, H, W, 3) uint8.
      timestamps: (n,) float64 seconds.
    """

    frames: np.ndarray = field(repr=False)
    timestamps: np.ndarray


StoredVideo = StoredClip | StoredFrames | GivenFrames
