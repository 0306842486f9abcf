"""Refuses a model that memory can't hold, before it is loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jax.sharding import Mesh

from stts_jax.budget import Budget
from stts_jax.config import Config
from stts_jax.inference.memory_estimate import MemoryEstimate, memory_to_answer, require_memory
from stts_jax.model.video_language_model import (
    Weights,
    abstract_model,
    to_answer,
    vision_encoder,
)
from stts_jax.parallel.mesh import make_mesh
from stts_jax.terminal import to_stderr
from stts_jax.training.checkpointing.opened import OpenedCheckpoint

_LESS_MEMORY = (
    "take fewer frames (--frames 0.5x), drop more tokens (--set model.prune.topk=0.7), answer "
    "fewer questions at once (--set eval.batch_rows=1){}, or use a machine with more memory"
)
_INT8 = ", hold weights in int8 (--weights int8)"


def require_model_fits(
    checkpoint: OpenedCheckpoint,
    config: Config,
    budget: Budget,
    rows: int = 1,
    mesh: Mesh | None = None,
    *,
    scoring: bool = False,
    weights: Sequence[Weights] = ("compute",),
    say: Callable[[str], None] = to_stderr,
    remedy: str | None = None,
) -> None:
    """Prints the memory that a model takes to answer, before it is loaded.

    Args:
      checkpoint: of the model.
      config: of the run.
      budget: of a question.
      rows: questions that are answered at once.
      mesh: that the model will be placed on, by default all devices, a copy on each.
      scoring: whether ViT and scorer are all that is loaded.
      weights: types of the weights; of several, a model of each is loaded.
      say: prints a line.
      remedy: what to change where there isn't so much, by default options of the commands.

    Raises:
      ConfigError: if there isn't so much.
    """
    mesh = mesh or make_mesh()
    estimate = MemoryEstimate(0, 0, 0)
    for kind in weights:
        shapes = to_answer(abstract_model(config.model), kind, checkpoint.dtypes)
        loaded = vision_encoder(shapes) if scoring else shapes
        estimate += memory_to_answer(loaded, config, mesh, budget, rows)
    remedy = remedy or _LESS_MEMORY.format("" if "int8" in weights else _INT8)
    say("memory: " + require_memory(estimate, mesh, remedy))
