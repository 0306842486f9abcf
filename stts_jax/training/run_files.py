"""Files that a run appends to: in its folder, or in one of this machine that is copied to a bucket.

Files in a bucket can't be appended to. So the metrics, the logs of libraries, TensorBoard's events
and profiles of a run in a bucket are written to a temporary folder here, and those that changed are
copied there as a whole: before each save, once a minute, after evaluations and at the end. What a
killed run has not copied is from after its last checkpoint, and is computed again.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self, cast

from stts_jax.buckets.address import is_bucket
from stts_jax.parallel.processes import is_first
from stts_jax.training.log import METRICS_FILE
from stts_jax.training.trackers import WANDB_ID

# Files of an earlier process that a later one goes on with.
_FETCHED = (METRICS_FILE, WANDB_ID)
_SECONDS = 60.0


class RunFiles:
    """The folder that a process of a run appends to files in; a context manager.

    Attributes:
      folder: on this machine; the run's own unless that is in a bucket.
    """

    def __init__(self, output: Path) -> None:
        self.output = self.folder = output
        self._stack = ExitStack()
        self._copied: dict[Path, tuple[int, int]] = {}
        self._last = time.monotonic()

    def __enter__(self) -> Self:
        if is_bucket(self.output):
            made = self._stack.enter_context(
                tempfile.TemporaryDirectory(prefix="stts-run-", ignore_cleanup_errors=True)
            )
            self.folder = Path(made) / self.output.name  # trackers name a run after it
            self.folder.mkdir()
            for name in _FETCHED if is_first() else ():
                self._fetch(name)
        return self

    def _fetch(self, name: str) -> None:
        try:
            content = (self.output / name).read_bytes()
        except FileNotFoundError:
            return
        (self.folder / name).write_bytes(content)

    def copy(self) -> None:
        """Copies what has changed to the bucket, if the run is in one."""
        self._last = time.monotonic()
        if self.folder == self.output:
            return
        from stts_jax.buckets.bucket_path import BucketPath

        for path in sorted(path for path in self.folder.rglob("*") if path.is_file()):
            found = path.stat()
            state = (found.st_size, found.st_mtime_ns)
            if self._copied.get(path) != state:
                target = self.output / path.relative_to(self.folder)
                cast(BucketPath, target).upload(str(path))
                self._copied[path] = state

    def copy_now_and_then(self) -> None:
        """Copies what has changed unless that was done less than a minute ago."""
        if time.monotonic() - self._last > _SECONDS:
            self.copy()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._stack:
            try:
                self.copy()
            except OSError:
                if error is None:  # otherwise the first error is raised
                    raise
