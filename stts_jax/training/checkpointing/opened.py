"""Opens a checkpoint: shapes and types of its parameters are known, no values are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stts_jax.buckets.address import path_of
from stts_jax.config import Config
from stts_jax.training.adapters.names import adapted_layers, is_adapter
from stts_jax.training.checkpointing.base import find_base, recorded_base, require_base
from stts_jax.training.checkpointing.checkpoint_errors import CheckpointError, reading
from stts_jax.training.checkpointing.run_folder import MODEL, config_of, find_checkpoint
from stts_jax.training.checkpointing.stored_arrays import open_arrays


@dataclass(frozen=True)
class OpenedCheckpoint:
    """A checkpoint, with its base if it has one, whose files are open.

    Attributes:
      folder: of the checkpoint.
      named: the folder that a user named, which may have several checkpoints.
      parameters: TensorStore arrays of a whole model by name, those of the base where the
        checkpoint has none of its own.
      own: those that the checkpoint itself has.
      scale: of the adapters, alpha / rank.
      base: the checkpoint of the base, None for a whole model.
      own_config: of a checkpoint that no `config.json` of ours belongs to.
    """

    folder: Path
    named: Path
    parameters: Mapping[str, Any]
    own: Mapping[str, Any]
    scale: float = 1.0
    base: Path | None = None
    own_config: Config | None = None

    @property
    def config(self) -> Config:
        """Returns the configuration of the model; errors are those of `config_of`."""
        return self.own_config or config_of(self.folder)

    @property
    def dtypes(self) -> dict[str, np.dtype]:
        """Returns the types that the parameters are stored in, by name."""
        return {name: array.dtype.numpy_dtype for name, array in self.parameters.items()}

    @property
    def adapters(self) -> dict[str, tuple[Any, Any]]:
        """Returns `lora_a` and `lora_b` by the name of the kernel that they adapt."""
        return {f"{layer}.kernel": pair for layer, pair in adapted_layers(self.own).items()}


def open_checkpoint(folder: Path, base: Path | None = None) -> OpenedCheckpoint:
    """Opens a checkpoint, and the base that its adapters belong to.

    Args:
      folder: see `find_checkpoint`.
      base: folder of the base, for a checkpoint that has one, if it isn't where it was.

    Raises:
      CheckpointError: if there is none, files are damaged, or the base is missing or another model.
    """
    checkpoint = find_checkpoint(path_of(folder))
    with reading(checkpoint):
        own = open_arrays(checkpoint / MODEL)
    recorded = recorded_base(checkpoint)
    if recorded is None:
        if base is not None:
            raise CheckpointError(
                f"'{checkpoint}' is a whole model and belongs to no base; name it without --adapter"
            )
        return OpenedCheckpoint(checkpoint, path_of(folder), own, own)
    found = find_base(checkpoint, recorded, base)
    with reading(found):
        arrays = open_arrays(found / MODEL)
    require_base(found, recorded, arrays, checkpoint)
    lora = config_of(checkpoint).train.lora
    plain = {name: array for name, array in own.items() if not is_adapter(name)}
    scale = lora.alpha / lora.rank if lora.rank else 1.0
    return OpenedCheckpoint(checkpoint, path_of(folder), arrays | plain, own, scale, found)
