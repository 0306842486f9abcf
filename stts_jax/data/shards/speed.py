"""Measures what examples cost from shards, against decoding the same clips."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from stts_jax.config import Config, replace
from stts_jax.config.data import SHARDS
from stts_jax.data.shards.frame_coding import FrameCoding
from stts_jax.data.speed import Speed, made_clip_set, measure

CLIP_SECONDS = 32.0
_COUNTER = Path("/proc/self/io")


@dataclass(frozen=True)
class _Kind:
    """What was measured of one kind of storing.

    Attributes:
      name: in the table.
      size: bytes of an example.
      read: bytes that were read for one, None where the system doesn't count them.
      speed: of the stages.
    """

    name: str
    size: int
    read: float | None
    speed: Speed

    def line(self, decoded: Speed) -> str:
        """The line of the table, against decoding."""
        read = "" if self.read is None else f"{self.read / self.size:.2f}"
        times = decoded.seconds["decode"] / self.speed.seconds["decode"]
        each = 1e3 * self.speed.seconds["decode"] / self.speed.examples
        return (
            f"{self.name:<18}{self.size:>14,}{read:>15}{each:>13.2f}{times:>9.1f}x"
            f"{self.speed.per_second:>21.2f}"
        )


def compared(config: Config, examples: int, seconds: float = CLIP_SECONDS) -> list[str]:
    """Returns a table: what examples of a made clip cost from files and from shards.

    Args:
      config: of the run.
      examples: read of each kind, each of another file.
      seconds: length of the clip.
    """
    head = f"{'stored as':<18}{'bytes/example':>14}{'read per byte':>15}{'decode, ms':>13}"
    told = [f"{head}{'faster':>10}{'examples/s and core':>21}"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = _several(made_clip_set(folder, seconds), examples)
        size = (folder / "clip.mp4").stat().st_size
        config = replace(config, {"data.train": str(path), "data.cache_frames": False})
        files = _measured(config, "files", size, examples)
        kinds = [files]
        for coding in (None, FrameCoding(), FrameCoding.named("jpeg")):
            kinds.append(_of_shards(config, coding, folder / "shards", examples))
    return told + [kind.line(files.speed) for kind in kinds]


def _several(path: Path, examples: int) -> Path:
    """Writes a file of so many examples of a clip, each of another link to it."""
    line = json.loads(path.read_text())
    with path.open("w") as file:
        for number in range(examples):
            name = f"{number}.mp4"
            (path.parent / name).symlink_to(path.parent / line["video"])
            file.write(json.dumps(line | {"video": name}) + "\n")
    return path


def _of_shards(config: Config, coding: FrameCoding | None, folder: Path, examples: int) -> _Kind:
    from stts_jax.data.shards.writing import write_shards  # its libraries start slowly

    done = write_shards(config, str(folder), coding=coding, per_shard=max(1, examples // 2))
    size = sum(info.bytes for info in done.infos) // examples
    name = "shards: clips" if coding is None else f"frames: {coding}"
    found = _measured(replace(config, {"data.train": f"{SHARDS}{folder}"}), name, size, examples)
    shutil.rmtree(folder)
    return found


def _measured(config: Config, name: str, size: int, examples: int) -> _Kind:
    measure(config, 1)  # what is loaded once
    before = _bytes_read()
    speed = measure(config, examples)
    after = _bytes_read()
    read = None if before is None or after is None else (after - before) / examples
    return _Kind(name, size, read, speed)


def _bytes_read() -> int | None:
    """Returns what this process has read of files by now, where Linux counts it."""
    try:
        return int(_COUNTER.read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None
