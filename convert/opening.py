"""Opens a checkpoint in any form, for all that takes the name of one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from convert.cache import local_adapter, local_checkpoint
from convert.unconverted import open_unconverted
from stts_jax.config import ConfigError
from stts_jax.training.checkpointing.opened import OpenedCheckpoint, open_checkpoint


def open_any(
    folder: Path,
    adapter: Path | None = None,
    *,
    copy: bool,
    notice: Callable[[str], None] = print,
) -> OpenedCheckpoint:
    """Opens a run, one of its steps, a conversion, or a folder that `python -m convert` reads.

    Args:
      folder: of the checkpoint.
      adapter: folder of adapters that belong to it, of a run or of PEFT.
      copy: whether of a folder of another form a converted copy is kept, see
        `cache.local_checkpoint`; otherwise it is read where it is.
      notice: takes a line of text.

    Raises:
      CheckpointError, ConvertError: if it can't be read.
      ConfigError: for adapters of a folder that is read in place.
    """
    if copy:
        return open_checkpoint(*with_adapter(folder, adapter, notice))
    if adapter is not None:
        raise ConfigError(
            f"--no-cache reads a whole model where it is, and --adapter is '{adapter}', which is "
            "merged into a converted copy; leave out one of them"
        )
    return open_unconverted(folder, notice)


def with_adapter(
    folder: Path, adapter: Path | None, notice: Callable[[str], None] = print
) -> tuple[Path, Path | None]:
    """Returns the checkpoint to load and, if it holds adapters, the base that was named with them.

    Folders of other forms are converted.

    Args:
      folder: of a model.
      adapter: that belongs to it, if any.
      notice: takes a line of text.
    """
    checkpoint = local_checkpoint(folder, notice)
    if adapter is None:
        return checkpoint, None
    return local_adapter(adapter, checkpoint, notice), checkpoint
