"""Makes the state of a run that trains a part of a model, whose rest is in another checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from stts_jax.buckets.address import path_of
from stts_jax.config import Config, ConfigError
from stts_jax.model.int8_weights import without_scales
from stts_jax.parallel.parameters import named_parameters, replace_parameters
from stts_jax.training.adapters.names import is_adapter, name_in_base
from stts_jax.training.checkpointing.base import (
    Base,
    find_base,
    fingerprint_of,
    recorded_base,
    require_base,
)
from stts_jax.training.checkpointing.checkpoint_errors import CheckpointError, reading
from stts_jax.training.checkpointing.load import require_match, settle_scorer
from stts_jax.training.checkpointing.opened import OpenedCheckpoint, open_checkpoint
from stts_jax.training.checkpointing.parameter_loading import load_parameters
from stts_jax.training.checkpointing.run_folder import MODEL, config_of
from stts_jax.training.checkpointing.stored_arrays import open_arrays
from stts_jax.training.optimizer import is_trained
from stts_jax.training.step import TrainState, abstract_state, init_trained


@dataclass(frozen=True)
class AdaptedStart:
    """The checkpoint that such a run starts from, opened.

    Attributes:
      stored: the checkpoint: the base, or adapters of it.
      base: of the run.
    """

    stored: OpenedCheckpoint
    base: Base


def require_start(config: Config, init_from: Path | None) -> None:
    """Raises a `ConfigError` if a run has no model to adapt, or a ViT that can't be adapted."""
    train, lora = config.train, config.train.lora
    drops = lora.dropout > 0 and any(layer.startswith("vit.") for layer in lora.layers)
    of_int8 = train.has_base and train.frozen_weights == "int8"
    if config.model.prune.layout == "first_fit" and (drops or of_int8):
        raise ConfigError(
            "model.prune.layout is first_fit, in which no ViT of int8 weights and none whose "
            "adapters drop inputs (train.lora.dropout) can be trained; set it to stream"
        )
    if train.has_base and init_from is None:
        name = "train.lora.rank" if lora.rank else "train.freeze"
        raise ConfigError(
            f"{name} is set, but there is no model whose parameters are left as they are; name its "
            "folder with --init-from"
        )


def open_start(folder: Path, base: Path | None = None) -> AdaptedStart:
    """Opens the checkpoint that a run with a frozen base starts from.

    Args:
      folder: of a whole model, which is the base; or of adapters, whose base it is then.
      base: of those adapters, if it isn't where it was.

    Raises:
      CheckpointError: see `opened.open_checkpoint`.
    """
    stored = open_checkpoint(folder, base)
    recorded = recorded_base(stored.folder)
    if recorded is None:
        with reading(stored.folder):
            recorded = Base(str(stored.folder), fingerprint_of(stored.own))
    return AdaptedStart(stored, Base(str(stored.base or stored.folder), recorded.fingerprint))


def adapted_state(
    config: Config,
    mesh: Mesh,
    key: jax.Array,
    start: AdaptedStart,
    notice: Callable[[str], None] = print,
) -> TrainState:
    """Returns the state of a new run: a frozen base, and what is trained, read or initialised.

    Frozen parameters are read into the type that they are held in, and not initialised before.

    Args:
      config: of the run.
      mesh: to shard the state over.
      key: of the run's parameters.
      start: where it starts from.
      notice: takes a line of text.

    Raises:
      CheckpointError: if its parameters, or adapters, aren't those that the config describes.
    """
    stored = start.stored
    abstract = abstract_state(config, mesh)
    wanted = {
        name_in_base(name): leaf
        for name, leaf in without_scales(named_parameters(abstract.model)).items()
        if not is_adapter(name)
    }
    saved = dict(stored.parameters)
    settle_scorer(wanted, saved, stored.folder, notice)
    require_match(wanted, saved, stored.folder)
    _require_frozen_in_base(config, abstract, stored)
    frozen = load_frozen(config, abstract, saved, stored.base or stored.folder)
    state = init_trained(config, mesh, key, frozen)
    return _with_trained(config, state, saved, stored)


def _require_frozen_in_base(config: Config, abstract: TrainState, stored: OpenedCheckpoint) -> None:
    """Raises a `CheckpointError` if frozen parameters would be others than those of the base."""
    if stored.base is None:
        return
    frozen = (n for n in named_parameters(abstract.model) if not is_trained(n, config.train))
    name = next((name_in_base(n) for n in frozen if name_in_base(n) in stored.own), None)
    if name is not None:
        raise CheckpointError(
            f"'{stored.folder}' has trained '{name}', which this run would leave as it is and take "
            f"from the base '{stored.base}'; merge the two first (python -m convert) and start "
            "from the result"
        )


def load_frozen(
    config: Config, abstract: TrainState, saved: dict[str, Any], folder: Path
) -> dict[str, jax.Array]:
    """Reads the parameters that a run doesn't train, by their name in the adapted model.

    Args:
      config: of the run.
      abstract: shapes and shardings of its state.
      saved: TensorStore's handles of a whole model, by name.
      folder: of it, for messages.
    """
    wanted = {
        name: leaf
        for name, leaf in named_parameters(abstract.model).items()
        if not is_trained(name, config.train)
    }
    with reading(folder):
        sources = {name: saved[name_in_base(name)] for name in without_scales(wanted)}
        return load_parameters(sources, wanted)


def frozen_of_run(
    config: Config,
    abstract: TrainState,
    output: Path,
    base: Path | None = None,
    init_from: Path | None = None,
) -> dict[str, jax.Array]:
    """Reads the frozen parameters of a run that is resumed; empty if it saves all of its model.

    Args:
      config: of the run.
      abstract: shapes and shardings of its state.
      output: folder of the run.
      base: folder of its base, if it isn't where it was.
      init_from: taken for the base if that is nowhere else.

    Raises:
      CheckpointError: if the base is missing, or another model.
    """
    if not config.train.has_base:
        return {}
    recorded = recorded_base(output)
    if recorded is None:
        raise CheckpointError(
            f"'{output}' lacks base.json, which names the model that the run adapts; copy it from "
            "where the run is from"
        )
    moved = None if path_of(recorded.path).is_dir() else init_from
    folder = find_base(output, recorded, base or moved)
    with reading(folder):
        saved = open_arrays(folder / MODEL)
    require_base(folder, recorded, saved, output)
    return load_frozen(config, abstract, saved, folder)


def _with_trained(
    config: Config, state: TrainState, saved: dict[str, Any], stored: OpenedCheckpoint
) -> TrainState:
    """Replaces newly initialised parameters by those of the checkpoint, where it has them."""
    trained = {
        name: leaf
        for name, leaf in named_parameters(state.model).items()
        if is_trained(name, config.train)
    }
    sources = {name: saved[name] for name in trained if name in saved}
    if stored.adapters:
        _require_same_adapters(config, stored)
        sources |= {name: stored.own[name] for name in trained if is_adapter(name)}
    shapes = {
        name: jax.ShapeDtypeStruct(
            trained[name].shape, trained[name].dtype, sharding=trained[name].sharding
        )
        for name in sources
    }
    with reading(stored.folder):
        loaded = load_parameters(sources, shapes)
    return TrainState(
        replace_parameters(state.model, loaded), state.optimizer, state.step, state.spikes
    )


def _require_same_adapters(config: Config, stored: OpenedCheckpoint) -> None:
    ours, theirs = config.train.lora, config_of(stored.folder).train.lora
    for name in ("rank", "alpha", "layers"):
        if getattr(ours, name) != getattr(theirs, name):
            setting = "targets" if name == "layers" else name
            raise CheckpointError(
                f"'{stored.folder}' has adapters with train.lora.{setting}="
                f"{getattr(theirs, setting)}, and this run has {getattr(ours, setting)}; set it "
                "alike, or merge them first (python -m convert) and start from that"
            )
