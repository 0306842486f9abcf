"""Says when a program is about to be compiled, and refuses one that memory can't hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable

from stts_jax.budget import Budget
from stts_jax.config import Config
from stts_jax.inference.memory_estimate import MemoryEstimate, memory_to_answer, require_memory
from stts_jax.model.video_language_model import VideoLanguageModel
from stts_jax.parallel.mesh import make_mesh, mesh_of

_LESS_MEMORY = (
    "take fewer frames (frames=8), drop more tokens (prune=0.7), or ask fewer questions at once"
)


class Programs:
    """The programs that a model has been asked for.

    Attributes:
      notice: takes a line for each new one; without it nothing is said, nor refused.
    """

    def __init__(self, notice: Callable[[str], None] | None = None) -> None:
        self.notice = notice
        self._known: set[Hashable] = set()

    def expect(self, what: str, sizes: str, *key: Hashable) -> None:
        """Says that a program is compiled, unless it was before.

        Args:
          what: it does, for example `answering`.
          sizes: that it is compiled for, in words.
          key: tells it from others of the same sizes.
        """
        if self.notice is not None and (what, sizes, *key) not in self._known:
            self._known.add((what, sizes, *key))
            self.notice(f"compiling for {what}: {sizes}")

    def expect_rows(
        self, what: str, model: VideoLanguageModel, config: Config, budget: Budget, rows: int = 1
    ) -> None:
        """Expects a program for rows of a budget.

        Args:
          what: it does.
          model: in the configuration that it is compiled in.
          config: of the run.
          budget: of a row.
          rows: of a batch.

        Raises:
          ConfigError: if its activations don't fit into memory.
        """
        key = (what, model.config, budget, rows, config.eval)
        if self.notice is None or key in self._known:
            return
        require_room(model, config, budget, rows)
        self._known.add(key)
        several = f", {rows} at a time" if rows > 1 else ""
        self.notice(
            f"compiling for {what}: up to {budget.frames} frames, {budget.visual} visual tokens "
            f"that stay and {budget.text} tokens of text{several}"
        )


def require_room(model: VideoLanguageModel, config: Config, budget: Budget, rows: int) -> None:
    """Raises a `ConfigError` if memory can't hold what a program takes beside the parameters."""
    mesh = mesh_of(model) or make_mesh()
    data = dataclasses.replace(config.data, topk=None)
    config = dataclasses.replace(config, model=model.config, data=data)
    whole = memory_to_answer(model, config, mesh, budget, rows)
    require_memory(MemoryEstimate(0, whole.copies, whole.activations), mesh, _LESS_MEMORY)
