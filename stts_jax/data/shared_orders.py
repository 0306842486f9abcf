"""Permutations that follow from size, seed and epoch, shared by the processes that need them."""

from __future__ import annotations

import contextlib
import fcntl
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from stts_jax.data.mapped_files import take_room

# Smaller ones are in the memory of each process, where they take less than its imports do.
SHARED_FROM = 1 << 20


class SharedOrders:
    """Makes shuffled orders; those of large datasets are in files that all processes map.

    The files are in a folder for temporary ones, from the first large order on until this object is
    gone in the process that made it. Where they can't be written, each process has its own.
    """

    def __init__(self, seed: int, largest: int) -> None:
        """Make the orders of a seed.

        Args:
          seed: of all orders.
          largest: size; that of a small one needs no files.
        """
        self._seed = seed
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._files: Path | None = None
        if largest >= SHARED_FROM:
            with contextlib.suppress(OSError):
                self._folder = tempfile.TemporaryDirectory(prefix="stts_jax_order_")
                self._files = Path(self._folder.name)

    def order(self, size: int, epoch: int) -> np.ndarray:
        """Returns the numbers below `size` in the order of an epoch: (size,) int32."""
        if size >= SHARED_FROM and self._files is not None:
            with contextlib.suppress(OSError, ValueError):
                return self._shared(self._files, size, epoch)
        order = np.zeros(size, np.int32)
        self._shuffle(order, epoch)
        return order

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_folder": None}

    def _shuffle(self, order: np.ndarray, epoch: int) -> None:
        order[:] = np.arange(len(order), dtype=np.int32)
        seed = np.random.SeedSequence(self._seed, spawn_key=(epoch, 1))
        np.random.RandomState(np.random.MT19937(seed)).shuffle(order)

    def _shared(self, folder: Path, size: int, epoch: int) -> np.ndarray:
        path = folder / f"{size}-{epoch}.npy"
        with (folder / "lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the first makes it, and the others wait
            if not path.exists():
                self._write(path, size, epoch)
                self._remove(folder, size, epoch - 2)
        return np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray)

    def _write(self, path: Path, size: int, epoch: int) -> None:
        draft = path.with_name("draft.npy")
        try:
            order = np.lib.format.open_memmap(draft, "w+", np.int32, (size,))
            take_room(draft)
            # NumPy shuffles a plain array the same way, and sooner.
            self._shuffle(order.view(np.ndarray), epoch)
            order.flush()
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)

    def _remove(self, folder: Path, size: int, epoch: int) -> None:
        """Removes the order of an epoch that all have left; one that lags makes it again."""
        (folder / f"{size}-{epoch}.npy").unlink(missing_ok=True)
