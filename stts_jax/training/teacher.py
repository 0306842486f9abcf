"""Opens the teacher of a run that distils, after checks that need its configuration alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from jax.sharding import Mesh

from stts_jax.buckets.address import path_of
from stts_jax.config import Config, ConfigError, ModelConfig
from stts_jax.data.text.tokenizer import Tokenizer
from stts_jax.model.video_language_model import VideoLanguageModel
from stts_jax.parallel.processes import notice
from stts_jax.terminal import doing
from stts_jax.train_ratios import RatioDraw, at_ratio
from stts_jax.training.checkpointing.load import load_to_answer
from stts_jax.training.checkpointing.run_folder import config_of
from stts_jax.training.checkpointing.run_tokenizer import tokenizer_of
from stts_jax.training.distillation import SELF

# Two tokenizers that give it the same ids are taken for the same.
_PROBE = "When does the red triangle turn blue, after 12.5 s or never?"


def require_teacher(config: Config) -> None:
    """Raises an error if `train.distill.teacher` can't teach this run.

    Raises:
      ConfigError: if it reads other rows or other tokens than the run's, or no step of the run
        drops a token.
      CheckpointError: if there is no such checkpoint.
    """
    teacher = config.train.distill.teacher
    if teacher == SELF and not any(RatioDraw.of(config).ratios):
        raise ConfigError(
            "train.distill.teacher is 'self', but no step drops a token, so the model has nothing "
            "to learn from itself; set model.prune.topk or model.prune.train_ratios, or leave the "
            "teacher out"
        )
    if teacher in ("", SELF):
        return
    ours, theirs = _of_rows(config.model), _of_rows(config_of(path_of(teacher)).model)
    for name, value in theirs.items():
        if ours[name] != value:
            raise ConfigError(
                f"train.distill.teacher is '{teacher}', whose {name} is {value}, but that of the "
                f"run is {ours[name]}; choose a teacher that reads the same rows"
            )
    _require_same_tokens(config, path_of(teacher))


def open_teacher(
    config: Config, mesh: Mesh, say: Callable[[str], None] = notice
) -> VideoLanguageModel | None:
    """Returns the model of `train.distill.teacher`, unpruned; None without one, or for `self`.

    Its parameters are in the types that it computes in, see `in_compute_dtype`.

    Args:
      config: of the run.
      mesh: to shard it over.
      say: prints a line.

    Raises:
      CheckpointError: if the checkpoint is damaged.
    """
    teacher = config.train.distill.teacher
    if teacher in ("", SELF):
        return None
    folder = path_of(teacher)
    own = at_ratio(config_of(folder), 0.0)
    model = dataclasses.replace(own.model, compute_dtype=config.model.compute_dtype)
    with doing(f"loading the teacher '{folder}'", say):
        return load_to_answer(folder, dataclasses.replace(own, model=model), mesh)[0]


def _require_same_tokens(config: Config, teacher: Path) -> None:
    """Raises a `ConfigError` if a text has other token ids for the teacher than for the run."""
    ours, theirs = config.data.tokenizer, tokenizer_of(teacher)
    if theirs in (None, ours):  # a file that is gone can't be compared
        return
    size = config.model.llm.vocab_size
    ids, of_teacher = (Tokenizer.load(str(path), size).encode(_PROBE) for path in (ours, theirs))
    if ids != of_teacher:
        raise ConfigError(
            f"train.distill.teacher is '{teacher}', whose tokenizer '{theirs}' has other ids than "
            f"'{ours}', the data.tokenizer of the run; choose a teacher that reads the same tokens"
        )


def _of_rows(model: ModelConfig) -> dict[str, int]:
    """Returns the settings that decide what rows of a batch look like, and what is predicted."""
    return {
        "model.vit.image_size": model.vit.image_size,
        "model.vit.patch_size": model.vit.patch_size,
        "model.prune.pooling": model.prune.pooling,
        "model.connector.image_pooling": model.connector.image_pooling,
        "model.llm.vocab_size": model.llm.vocab_size,
    }
