"""The tokenizer of a run that starts from a checkpoint: the one that its parameters know."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from stts_jax.config import Config, replace
from stts_jax.training.checkpoint import checkpoint_steps, config_of, locate_checkpoint

TINY = "tiny"
TOKENIZER = "tokenizer.json"


def with_tokenizer_of_start(
    config: Config,
    output: Path,
    *,
    init_from: Path | None,
    resume: bool,
    notice: Callable[[str], None] = print,
) -> Config:
    """A config whose tokenizer exists, if that of the checkpoint to start from does.

    Published setups can't know where a model's tokenizer lies; the checkpoint does.

    Args:
      config: of the run; one whose `data.tokenizer` exists stays as it is.
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
        found = _tokenizer_of(folder)
        if found is not None:
            notice(f"data.tokenizer '{stated}' does not exist: using '{found}' of '{folder}'")
            return replace(config, {"data.tokenizer": found})
    return config


def _tokenizer_of(folder: Path) -> str | None:
    """What the config of a checkpoint names, or what lies beside it if the folder was moved."""
    stated = config_of(folder).data.tokenizer
    if _exists(stated):
        return stated
    checkpoint = locate_checkpoint(folder)
    places = (place / TOKENIZER for place in (checkpoint, *checkpoint.parents[:2]))
    return next((str(path) for path in places if path.is_file()), None)


def _exists(tokenizer: str) -> bool:
    return tokenizer == TINY or Path(tokenizer).is_file()
