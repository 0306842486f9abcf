"""Loads and saves models without the state of a run: to evaluate, to ask, to fine-tune."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh
from orbax.checkpoint import v1 as ocp

from stts_jax.config import Config
from stts_jax.layers.int8_linear import quantize
from stts_jax.model.int8_weights import scales_of, without_scales
from stts_jax.model.video_language_model import (
    VideoLanguageModel,
    Weights,
    abstract_model,
    to_answer,
    vision_encoder,
)
from stts_jax.model.vision import VisionEncoder
from stts_jax.parallel.mesh import make_mesh, parameter_shardings, sharded_shapes
from stts_jax.parallel.parameters import named_parameters
from stts_jax.quoting import shorten
from stts_jax.training.adapters.merge import merge
from stts_jax.training.checkpointing.checkpoint_errors import CheckpointError, reading
from stts_jax.training.checkpointing.opened import OpenedCheckpoint, open_checkpoint
from stts_jax.training.checkpointing.parameter_loading import load_parameters
from stts_jax.training.checkpointing.run_folder import CHECKPOINTS, MODEL, require_writable
from stts_jax.training.checkpointing.stored_arrays import in_blocks

_SCORER = "scorer."
_SCORING = ("vit.", _SCORER)
_LISTED = 50  # more parameters than a model has
M = TypeVar("M")


def load_model(
    folder: Path,
    config: Config | None = None,
    mesh: Mesh | None = None,
    base: Path | None = None,
) -> tuple[VideoLanguageModel, Config]:
    """Returns the model of a checkpoint and its config; the optimizer's state isn't read.

    Adapters are merged into the parameters of their base.

    Args:
      folder: see `find_checkpoint`.
      config: to build the model with, by default that of the run. If it needs no scorer, the
        checkpoint's is not read.
      mesh: to shard the model over, by default all devices, a copy on each.
      base: folder of the model that adapters belong to, by default where it was in training.

    Raises:
      CheckpointError: if there is none, it is damaged, or its arrays are not those of the model.
    """
    return _load_model(folder, config, mesh, lambda shapes, stored: shapes, base=base)


def load_to_answer(
    checkpoint: Path | OpenedCheckpoint,
    config: Config | None = None,
    mesh: Mesh | None = None,
    weights: Weights = "compute",
) -> tuple[VideoLanguageModel, Config]:
    """Returns `load_model` with parameters in compute types, or weights in int8: `to_answer`."""
    return _load_model(
        checkpoint, config, mesh, lambda shapes, stored: to_answer(shapes, weights, stored)
    )


def load_to_score(
    checkpoint: Path | OpenedCheckpoint,
    config: Config | None = None,
    mesh: Mesh | None = None,
    weights: Weights = "compute",
) -> tuple[VisionEncoder, Config]:
    """Returns ViT and scorer alone, as of `load_to_answer`: nothing else is read."""
    return _load_model(
        checkpoint,
        config,
        mesh,
        lambda shapes, stored: vision_encoder(to_answer(shapes, weights, stored)),
        _SCORING,
    )


def _load_model(
    checkpoint: Path | OpenedCheckpoint,
    config: Config | None,
    mesh: Mesh | None,
    cast: Callable[[VideoLanguageModel, dict[str, np.dtype]], M],
    parts: tuple[str, ...] = ("",),
    base: Path | None = None,
) -> tuple[M, Config]:
    opened = checkpoint
    if not isinstance(opened, OpenedCheckpoint):
        opened = open_checkpoint(opened, base)
    config = config or opened.config
    shapes = cast(abstract_model(config.model), opened.dtypes)
    abstract: M = sharded_shapes(shapes, parameter_shardings(shapes, mesh or make_mesh()))
    wanted = named_parameters(abstract)
    saved = {name: array for name, array in opened.parameters.items() if name.startswith(parts)}
    if config.model.prune.method == "scorer":
        _require_scorer(saved, opened.folder)
    else:
        saved = {name: array for name, array in saved.items() if not name.startswith(_SCORER)}
    require_match(without_scales(wanted), saved, opened.folder)
    loaded: M = unflatten_named(abstract, _load(opened, saved, wanted))
    return loaded, config


def _require_scorer(saved: Mapping[str, Any], checkpoint: Path) -> None:
    """Refuses a checkpoint of a model that was trained without a scorer."""
    if not any(name.startswith(_SCORER) for name in saved):
        raise CheckpointError(
            f"'{checkpoint}' has no scorer, which model.prune.method=scorer needs; set a method "
            "without parameters (heuristic, tome, evs, random), or fine-tune it with a scorer "
            "(train.py --init-from)"
        )


def initialize_from(
    model: VideoLanguageModel,
    folder: Path,
    notice: Callable[[str], None] = print,
    base: Path | None = None,
) -> VideoLanguageModel:
    """Returns a model with the parameters of a checkpoint, to fine-tune.

    A scorer that the checkpoint lacks stays as it is in `model`; a scorer that the model lacks is
    left out; `notice` gets a line about either. All else must match.

    Args:
      model: newly initialised, sharded as wanted.
      folder: see `find_checkpoint`.
      notice: takes a line of text.
      base: of adapters, see `load_model`.

    Raises:
      CheckpointError: if there is none, it is damaged, or with the list of all that doesn't match.
    """
    opened = open_checkpoint(folder, base)
    parameters, saved = named_parameters(model), dict(opened.parameters)
    wanted = {
        name: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)
        for name, array in parameters.items()
    }
    settle_scorer(wanted, saved, opened.folder, notice)
    require_match(wanted, saved, opened.folder)
    return unflatten_named(model, parameters | _load(opened, saved, wanted))


def settle_scorer(
    wanted: dict[str, Any], saved: dict[str, Any], folder: Path, notice: Callable[[str], None]
) -> None:
    """Removes a scorer from the parameters of the side whose other side has none, with a notice.

    Args:
      wanted: parameters of a model by name.
      saved: those of a checkpoint.
      folder: of the checkpoint.
      notice: takes a line of text.
    """
    for has, lacks, what in (
        (wanted, saved, "has no scorer; a new one is initialised"),
        (saved, wanted, "has a scorer that this model doesn't use; it is left out"),
    ):
        scorer = [name for name in has if name.startswith(_SCORER)]
        if scorer and not any(name.startswith(_SCORER) for name in lacks):
            notice(f"checkpoint '{folder}' {what}")
            for name in scorer:
                del has[name]


def save_model(model: VideoLanguageModel, config: Config, output: Path, step: int = 0) -> Path:
    """Writes a model that no run trained to a folder that is read like that of a run.

    Returns:
      Folder of the checkpoint, in `output`.
    """
    require_writable(output)
    config.save(output)
    folder = output.resolve() / CHECKPOINTS / str(step)
    with in_blocks():
        ocp.save_checkpointables(folder, {MODEL: named_parameters(model)}, overwrite=True)
    return folder


def unflatten_named(abstract: Any, arrays: Mapping[str, Any]) -> Any:
    """Returns arrays, given by dotted name, in the structure of `abstract`."""
    leaves = [arrays[name] for name in named_parameters(abstract)]
    return jax.tree.unflatten(jax.tree.structure(abstract), leaves)


def require_match(wanted: Mapping[str, Any], saved: Mapping[str, Any], folder: Path) -> None:
    """Raises a `CheckpointError` that lists arrays that are missing, of another shape, or extra."""
    problems = [f"{shorten(name)} is missing" for name in wanted if name not in saved]
    problems += [
        f"'{name}' has shape {tuple(saved[name].shape)} instead of {tuple(array.shape)}"
        for name, array in wanted.items()
        if name in saved and tuple(saved[name].shape) != tuple(array.shape)
    ]
    problems += [f"{shorten(name)} is unexpected" for name in saved if name not in wanted]
    if problems:
        more = len(problems) - _LISTED
        raise CheckpointError(
            f"checkpoint '{folder}' doesn't fit this setup: {'; '.join(problems[:_LISTED])}"
            + (f"; and {more} more" if more > 0 else "")
            + "; use the config.json that lies with it"
        )


def _load(
    opened: OpenedCheckpoint, saved: dict[str, Any], wanted: dict[str, Any]
) -> dict[str, jax.Array]:
    """Reads only the arrays in `wanted`, and merges their adapters into them."""
    adapters = {name: pair for name, pair in opened.adapters.items() if name in wanted}
    # What is wanted in int8 is merged before it is quantised.
    scales = {name: own for name, own in scales_of(wanted).items() if name in adapters}
    later = {*scales, *(scale for scale, _ in scales.values())}
    with reading(opened.base or opened.folder):
        loaded = load_parameters(saved, {n: leaf for n, leaf in wanted.items() if n not in later})
    for name, pair in adapters.items():
        leaf = wanted[name]
        if name in scales:
            leaf = leaf.update(dtype=saved[name].dtype.numpy_dtype)
            with reading(opened.base or opened.folder):
                loaded |= load_parameters(saved, {name: leaf})
        with reading(opened.folder):
            loaded[name] = merge(loaded.pop(name), pair, opened.scale)
        if name in scales:
            scale, axis = scales[name]
            loaded[name], loaded[scale] = jax.jit(
                partial(quantize, axis=axis),
                out_shardings=(wanted[name].sharding, wanted[scale].sharding),
                donate_argnums=0,
            )(loaded.pop(name))
    return loaded
