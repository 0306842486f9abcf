"""Estimates the shared memory that worker processes need to pass on examples."""

from __future__ import annotations

import logging
import math
import mmap
import shutil
from dataclasses import dataclass
from pathlib import Path

from stts_jax.budget import batch_arrays, video_budget
from stts_jax.config import DataConfig, ModelConfig
from stts_jax.data.datasets.base import DatasetError
from stts_jax.data.packing.grouping import LOOKAHEAD

logger = logging.getLogger(__name__)

FOLDER = Path("/dev/shm")
# One is copied, one waits in the worker's queue, one in the run, and one is being freed.
PER_WORKER = 4
MIB = 1 << 20
PAGE = mmap.PAGESIZE  # each array takes whole ones
LOCKS = MIB // 4  # of the queues between processes, which are there too


@dataclass(frozen=True)
class SharedMemory:
    """Sizes of the examples that are passed on.

    Attributes:
      workers: processes that read.
      example: bytes of an example of the longest video.
      waiting: examples that are kept to fill rows from.
    """

    workers: int
    example: int
    waiting: int

    @classmethod
    def of(cls, model: ModelConfig, data: DataConfig) -> SharedMemory:
        """Returns the shared memory of a setup."""
        longest = video_budget(model, frames=data.max_frames, videos=1, text_tokens=0)
        arrays = batch_arrays(longest, model, 1).values()
        sizes = (math.prod(shape) * dtype.itemsize for shape, dtype in arrays)
        example = sum(-(-size // PAGE) * PAGE for size in sizes)
        return cls(data.workers, example, 0 if data.row_examples == 1 else LOOKAHEAD)

    @property
    def least(self) -> int:
        """Bytes without which no batch is made: an example for each worker."""
        return self.workers * self.example

    @property
    def most(self) -> int:
        """Bytes that are enough for videos of the greatest length."""
        return (PER_WORKER * self.workers + self.waiting) * self.example + LOCKS

    def require(self, folder: Path = FOLDER) -> None:
        """Refuse to start with less than the least; warn of less than the most.

        Raises:
          DatasetError: names what is there, what it takes, and how to get it.
        """
        if not self.workers or not folder.is_dir():
            return
        free = shutil.disk_usage(folder).free
        if free < self.least:
            raise DatasetError(f"{self._there(free)}; {self._remedy()}")
        if free < self.most:
            logger.warning("%s, if videos are that long; %s", self._there(free), self._remedy())

    def full(self, folder: Path = FOLDER) -> DatasetError:
        """The error of a worker that found none left."""
        size = shutil.disk_usage(folder).total
        return DatasetError(
            f"shared memory ({folder}, {_mib(size)} MiB) is full: data.workers={self.workers} take "
            f"up to {_mib(self.most)} MiB of it; {self._remedy()}"
        )

    def _there(self, free: int) -> str:
        return (
            f"shared memory ({FOLDER}) has {_mib(free)} MiB free, and data.workers={self.workers} "
            f"take up to {_mib(self.most)} MiB of it, {_mib(self.example)} for each example of "
            "data.max_frames frames"
        )

    def _remedy(self) -> str:
        gib = math.ceil(2 * self.most / (1 << 30))
        return (
            f"start the container with --shm-size={gib}g (in Kubernetes mount a memory volume, an "
            f"emptyDir of medium Memory, at {FOLDER}), or lower data.workers"
        )


def _mib(size: int) -> str:
    return f"{size / MIB:.3g}" if size < 100 * MIB else f"{size / MIB:.0f}"
