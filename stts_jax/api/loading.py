"""Loads a model by the name of its folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from jax.sharding import Mesh

from convert.opening import open_any
from stts_jax.api.errors import UsageError
from stts_jax.api.model import Model
from stts_jax.api.settings import Settings, with_settings
from stts_jax.arguments import WEIGHTS
from stts_jax.buckets.address import path_of
from stts_jax.buckets.errors import BucketError
from stts_jax.data.evaluation_batches import least_budget
from stts_jax.evaluation.model_fits import require_model_fits
from stts_jax.host_memory import keep_freed_memory
from stts_jax.model.video_language_model import Weights
from stts_jax.parallel.compile_cache import keep_compiled_code
from stts_jax.quoting import shorten
from stts_jax.terminal import doing, to_stderr
from stts_jax.training.checkpointing.load import load_to_answer
from stts_jax.training.run_mesh import answering_mesh

_LESS_MEMORY = (
    "take fewer frames (settings={'data.max_frames': 8}), drop more tokens "
    "(settings={'model.prune.topk': 0.7}), hold weights in int8 (weights='int8'), or use a machine "
    "with more memory"
)


def load(
    address: str | os.PathLike[str],
    *,
    adapter: str | os.PathLike[str] | None = None,
    weights: Weights = "compute",
    settings: Settings = (),
    mesh: Mesh | None = None,
    notice: Callable[[str], None] | None = to_stderr,
) -> Model:
    """Loads a model to ask.

    >>> model = stts.load("runs/tiny")
    >>> model
    Model('runs/tiny', 51,145 parameters, drops 50 % of a video)

    Compiled programs are kept on disk, as by the commands; JAX_COMPILATION_CACHE_DIR names the
    folder.

    Args:
      address: folder of a training run, of one of its steps, of a conversion, of adapters, or of
        a PyTorch checkpoint (from Hugging Face, for example), which is read where it is.
      adapter: folder of adapters of the model; a PyTorch checkpoint is converted for them.
      weights: `compute`, the type of `model.compute_dtype`, or `int8`, half of bfloat16's bytes.
      settings: changes by name, `{"model.prune.threshold": 0.4}`, or as the commands' `--set`
        takes them, `["model.prune.threshold=0.4"]`; docs/settings.md lists all.
      mesh: devices that share the model, by default all: a copy on each, or a part where a copy
        would fill it.
      notice: takes a line about what is being done and compiled; None for silence.

    Raises:
      CheckpointError, ConvertError: if the folder holds no model that can be read.
      ConfigError: if a setting is wrong, or memory can't hold the model.
      UsageError: if an argument is no path, or no type of weights.
    """
    folder, adapted = folder_of(address), None if adapter is None else folder_of(adapter)
    if weights not in WEIGHTS:
        raise UsageError(f"weights is {shorten(weights)}; use {' or '.join(map(repr, WEIGHTS))}")
    say = notice or silence
    keep_compiled_code()
    keep_freed_memory()
    opened = open_any(folder, adapted, copy=adapted is not None, notice=say)
    config = with_settings(opened.config, settings)
    mesh = mesh or answering_mesh(config)
    budget = least_budget(config)
    require_model_fits(
        opened, config, budget, 1, mesh, weights=[weights], say=say, remedy=_LESS_MEMORY
    )
    with doing(f"loading the model of '{opened.named}'", say):
        model, _ = load_to_answer(opened, config, mesh, weights)
    step = None if opened.own_config is not None else opened.folder
    return Model(model, config, str(folder), say, step)


def folder_of(address: str | os.PathLike[str]) -> Path:
    """Returns the folder that a user names.

    Raises:
      UsageError: if it can't be the path of one.
    """
    try:
        os.fspath(address)
        return path_of(address)
    except TypeError as error:
        raise UsageError(f"{shorten(address)} is no path of a folder; give one") from error
    except BucketError as error:
        raise UsageError(str(error)) from error


def silence(text: str) -> None:
    """Takes a line of text, and says nothing."""
