"""Efficient video understanding in JAX: score video tokens inside the ViT, drop the rest.

    import stts_jax as stts

    model = stts.load("runs/tiny")
    model.ask("clip.mp4", "What falls?", prune=0.5)

Names are imported when they are used, so that this module itself loads neither JAX nor NumPy
(docs/api.md).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stts_jax import pruning
    from stts_jax.api.conversation import Conversation
    from stts_jax.api.errors import USER_ERRORS, UsageError
    from stts_jax.api.loading import load
    from stts_jax.api.media import ImageLike, VideoLike
    from stts_jax.api.model import Model
    from stts_jax.api.opened_video import Kept, OpenVideo
    from stts_jax.api.runs import convert, evaluate, train
    from stts_jax.config import Config, ConfigError, load_config
    from stts_jax.evaluation.runner import Evaluation
    from stts_jax.training.checkpointing.checkpoint_errors import CheckpointError
    from stts_jax.training.loop import RunResult

__all__ = [
    "USER_ERRORS",
    "CheckpointError",
    "Config",
    "ConfigError",
    "Conversation",
    "Evaluation",
    "ImageLike",
    "Kept",
    "Model",
    "OpenVideo",
    "RunResult",
    "UsageError",
    "VideoLike",
    "convert",
    "evaluate",
    "load",
    "load_config",
    "pruning",
    "train",
]

_MODULES = {
    "USER_ERRORS": "api.errors",
    "CheckpointError": "training.checkpointing.checkpoint_errors",
    "Config": "config",
    "ConfigError": "config",
    "Conversation": "api.conversation",
    "Evaluation": "evaluation.runner",
    "ImageLike": "api.media",
    "Kept": "api.opened_video",
    "Model": "api.model",
    "OpenVideo": "api.opened_video",
    "RunResult": "training.loop",
    "UsageError": "api.errors",
    "VideoLike": "api.media",
    "convert": "api.runs",
    "evaluate": "api.runs",
    "load": "api.loading",
    "load_config": "config",
    "train": "api.runs",
}


def __getattr__(name: str) -> Any:
    """Imports a public name, or a module of the package, the first time that it is used."""
    if name in _MODULES:
        value = getattr(importlib.import_module(f"stts_jax.{_MODULES[name]}"), name)
    elif name == "pruning":
        value = importlib.import_module("stts_jax.pruning")
    else:
        raise AttributeError(f"module 'stts_jax' has no attribute '{name}'")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Returns the public names."""
    return sorted(__all__)
