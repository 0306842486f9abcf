"""Finds the tokenizer of a checkpoint, which a run that starts from it needs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from stts_jax.buckets.address import path_of
from stts_jax.config import Config, replace
from stts_jax.training.checkpointing.run_folder import (
    checkpoint_steps,
    config_of,
    locate_checkpoint,
)

TINY = "tiny"
TOKENIZER = "tokenizer.json"


def with_checkpoint_tokenizer(
    config: Config,
    output: Path,
    *,
    init_from: Path | None,
    resume: bool,
    notice: Callable[[str], None] = print,
) -> Config:
    """Returns the config, with the checkpoint's tokenizer if its own does not exist.

    Published setups can't know the path of a model's tokenizer; the checkpoint does.

    Args:
      config: of the run; it is returned as it is if `data.tokenizer` exists.
      output: folder of the run; its own checkpoints come first.
      init_from: folder of a run or checkpoint whose parameters to start from.
      resume: go on from the newest checkpoint in `output`, if any.
      notice: takes a line of text.

    Raises:
      CheckpointError: if `init_from` holds no checkpoint, or there is no config with it.
    """
    stated = config.data.tokenizer
    if _exists(stated):
        return config
    starts = [output] if resume and checkpoint_steps(output) else []
    starts += [init_from] if init_from is not None else []
    for folder in starts:
        found = tokenizer_of(folder)
        if found is not None:
            notice(f"data.tokenizer '{stated}' does not exist: using '{found}' of '{folder}'")
            return replace(config, {"data.tokenizer": found})
    return config


def tokenizer_of(folder: Path) -> str | None:
    """Returns the tokenizer in a checkpoint's config, or the file beside it if that was moved.

    None if there is neither. Errors are those of `config_of`.
    """
    stated = config_of(folder).data.tokenizer
    if _exists(stated):
        return stated
    checkpoint = locate_checkpoint(folder)
    paths = (folder / TOKENIZER for folder in (checkpoint, *checkpoint.parents[:2]))
    return next((str(path) for path in paths if path.is_file()), None)


def _exists(tokenizer: str) -> bool:
    return tokenizer == TINY or path_of(tokenizer).is_file()
