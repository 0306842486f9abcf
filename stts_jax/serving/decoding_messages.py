"""Messages between the server and the processes that decode: JSON, then bytes. Nothing executes."""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO, Literal

import numpy as np

Kind = Literal["video", "image"]
HEAD = struct.Struct(">I")
# A head holds a few numbers and the times of frames.
MAX_HEAD = 2**20
# Longest side of the frames that the page shows.
THUMBNAIL = 192


@dataclass(frozen=True)
class Job:
    """What is to be decoded.

    Attributes:
      kind: `video` or `image`.
      path: of the file.
      frames: of a video, at most.
      fps: at which its frames are taken, if they aren't too many; None for evenly.
      size: pixels of the side that frames are squashed to.
      pixels: that a frame may have, by its header.
      seconds: that a video may last.
    """

    kind: Kind
    path: str
    frames: int
    fps: float | None
    size: int
    pixels: int
    seconds: float

    def packed(self) -> bytes:
        """Returns the message."""
        return packed(asdict(self))


def packed(head: dict[str, Any], *arrays: np.ndarray) -> bytes:
    """Returns a message: its head, then arrays of uint8 whose shapes the head says."""
    text = json.dumps(head).encode()
    return b"".join([HEAD.pack(len(text)), text, *(array.tobytes() for array in arrays)])


def read_job(stream: BinaryIO) -> Job | None:
    """Returns the next job; None at the end."""
    size = stream.read(HEAD.size)
    if len(size) < HEAD.size:
        return None
    return Job(**json.loads(stream.read(HEAD.unpack(size)[0])))
