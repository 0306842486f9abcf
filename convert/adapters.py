"""Converts adapters alone: a run's to a folder of PEFT, and PEFT's to a folder like a run's."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from orbax.checkpoint import v1 as ocp

from convert.peft_folder import (
    CONFIG,
    SETTINGS,
    Adapter,
    read_adapter,
    read_scorer,
    write_adapter,
)
from convert.tensor_reader import ConvertError
from stts_jax.buckets.address import is_bucket
from stts_jax.buckets.whole_files import upload_folder
from stts_jax.config import Config, ConfigError, load_config, replace
from stts_jax.training.checkpointing.base import Base, fingerprint_of, save_base
from stts_jax.training.checkpointing.checkpoint_errors import CheckpointError
from stts_jax.training.checkpointing.opened import open_checkpoint
from stts_jax.training.checkpointing.run_folder import (
    CHECKPOINTS,
    MODEL,
    config_of,
    find_checkpoint,
)
from stts_jax.training.checkpointing.stored_arrays import in_blocks

_KERNEL, _SCORER = ".kernel", "scorer."


def is_peft(folder: Path) -> bool:
    """Returns whether a folder holds an adapter of PEFT."""
    return (folder / CONFIG).is_file()


def export_adapter(source: Path, target: Path, base: Path | None = None) -> str:
    """Writes the adapters of a run to a new folder of PEFT.

    Args:
      source: folder of the run.
      target: a folder that isn't there.
      base: folder of its base, if that isn't where it was.

    Returns:
      what was written, in words.

    Raises:
      ConvertError: if there are no adapters, or the folder is there.
    """
    try:
        checkpoint = find_checkpoint(source)
        config, stored = config_of(checkpoint), open_checkpoint(checkpoint, base)
    except (CheckpointError, ConfigError) as error:
        raise ConvertError(str(error)) from error
    if not stored.adapters:
        raise ConvertError(
            f"'{source}' has no adapters (train.lora.rank is {config.train.lora.rank}); write the "
            "whole model with --to hf"
        )
    layers = {
        kernel.removesuffix(_KERNEL): tuple(np.asarray(part.read().result()) for part in pair)
        for kernel, pair in stored.adapters.items()
    }
    scorer = {
        name: np.asarray(array.read().result())
        for name, array in stored.own.items()
        if name.startswith(_SCORER)
    }
    adapter = Adapter({name: (a, b) for name, (a, b) in layers.items()}, config.train.lora)

    def write(folder: Path) -> None:
        write_adapter(folder, adapter, config.model, str(stored.base), scorer)
        config.write(folder / SETTINGS)

    _write_new(target, write)
    return f"adapters of {len(layers)} kinds of layers" + (", and the scorer" if scorer else "")


def import_adapter(source: Path, target: Path, base: Path) -> None:
    """Writes an adapter of PEFT to a new folder, which is then used like that of a run.

    Args:
      source: folder of PEFT.
      target: a folder that isn't there.
      base: folder of the model it belongs to, one of ours.

    Raises:
      ConvertError: if it doesn't fit the base, or the folder is there.
    """
    try:
        checkpoint = find_checkpoint(base)
        config, stored = config_of(checkpoint), open_checkpoint(checkpoint)
    except (CheckpointError, ConfigError) as error:
        raise ConvertError(str(error)) from error
    if stored.base is not None:
        raise ConvertError(f"'{base}' holds adapters itself; merge them first, and name the result")
    config = _config_of_run(source, config)
    adapter = read_adapter(source, config.model)
    _require_shapes(adapter, stored.parameters, source)
    named = dict(read_scorer(source, config.model))
    if config.model.prune.method == "scorer" and not named:
        named = {
            name: np.asarray(array.read().result())
            for name, array in stored.parameters.items()
            if name.startswith(_SCORER)
        }
    for layer, (a, b) in adapter.layers.items():
        named |= {f"{layer}.lora_a": a, f"{layer}.lora_b": b}
    lora = {
        f"train.lora.{name}": getattr(adapter.lora, name)
        for name in ("rank", "alpha", "dropout", "targets")
    }
    config = replace(config, {"name": target.name, **lora})
    record = Base(str(checkpoint), fingerprint_of(stored.own))

    def write(folder: Path) -> None:
        config.save(folder)
        save_base(record, folder)
        with in_blocks():
            ocp.save_checkpointables(folder.resolve() / CHECKPOINTS / "0", {MODEL: named})

    _write_new(target, write)


def _config_of_run(source: Path, base: Config) -> Config:
    """Returns the settings that the adapter was trained with, else those of its base."""
    if not (source / SETTINGS).is_file():
        return base
    found = load_config(str(source / SETTINGS))
    if (found.model.llm, found.model.vit) != (base.model.llm, base.model.vit):
        raise ConvertError(
            f"'{source / SETTINGS}' describes another model than that of --base; name the model "
            "that the adapter belongs to"
        )
    return found


def _require_shapes(adapter: Adapter, base: Mapping[str, Any], source: Path) -> None:
    for layer, (a, b) in adapter.layers.items():
        kernel = base[layer + _KERNEL]
        found, wanted = (*a.shape[:-1], b.shape[-1]), tuple(kernel.shape)
        if found != wanted:
            raise ConvertError(
                f"the adapter of '{layer}' in '{source}' is for a kernel of shape {found}, and "
                f"that of its base has {wanted}; name the model that it belongs to"
            )


def _write_new(target: Path, write: Callable[[Path], Any]) -> None:
    """Calls `write` with a temporary folder, which then gets the name `target`."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConvertError(
            f"'{target}' is there already; choose another folder, or delete it to convert again"
        )
    if is_bucket(target):
        with tempfile.TemporaryDirectory(prefix="stts-adapter-") as made:
            write(Path(made))
            upload_folder(Path(made), target)
        return
    temporary = target.parent / f".{target.name}.converting"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        write(temporary)
        if target.is_dir():
            target.rmdir()
        temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
