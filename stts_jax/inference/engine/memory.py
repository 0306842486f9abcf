"""Reckons the memory that the engine takes, before it takes it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jax.sharding import Mesh

from stts_jax.budget import Budget
from stts_jax.config import Config
from stts_jax.inference.engine.settings import EngineSettings
from stts_jax.inference.engine.slot_cache import cache_shape, cache_sharding
from stts_jax.inference.memory_estimate import MemoryEstimate, memory_to_answer, require_memory
from stts_jax.parallel.memory import gigabytes
from stts_jax.parallel.platform import compute_dtype


@dataclass(frozen=True)
class EngineMemory:
    """Bytes on one device, or in the main memory of a machine without one.

    Attributes:
      answering: parameters, copies of them, and the activations of one prompt.
      slots: the cache of the decode batch.
      prefixes: those that are kept, and the one that is read.
    """

    answering: MemoryEstimate
    slots: int
    prefixes: int

    @property
    def total(self) -> int:
        """Returns the sum."""
        return self.answering.total + self.slots + self.prefixes

    def __str__(self) -> str:
        return (
            f"{gigabytes(self.total)} ({gigabytes(self.answering.total)} for the model and a "
            f"prompt, {gigabytes(self.slots)} for slots, {gigabytes(self.prefixes)} for prefixes)"
        )


def engine_memory(
    shapes: Any, config: Config, mesh: Mesh, settings: EngineSettings, budgets: Sequence[Budget]
) -> EngineMemory:
    """Returns what an engine takes.

    Args:
      shapes: the parameters, in the types that they are loaded in.
      config: of the run.
      mesh: that the model is placed on.
      settings: of the engine.
      budgets: of the media that will be asked about.
    """
    model = config.model
    answering = max(
        (memory_to_answer(shapes, config, mesh, budget, 1) for budget in budgets),
        key=lambda estimate: estimate.total,
    )
    itemsize = compute_dtype(model.compute_dtype).itemsize
    shape = cache_shape(model.llm, settings.slots, settings.capacity)
    sharding = cache_sharding(shape, mesh)
    slots = math.prod(shape if sharding is None else sharding.shard_shape(shape))
    # A prefix is read before it takes the room of others, on every device.
    one = math.prod(cache_shape(model.llm, 1, settings.prefix_tokens))
    prefixes = settings.cache_bytes + 2 * one * itemsize
    return EngineMemory(answering, 2 * slots * itemsize, prefixes)


def require_engine_memory(
    shapes: Any, config: Config, mesh: Mesh, settings: EngineSettings, budgets: Sequence[Budget]
) -> str:
    """Returns a line that says what is needed and what is there; arguments as `engine_memory`.

    Raises:
      ConfigError: if it is more than a device has free.
    """
    needed = engine_memory(shapes, config, mesh, settings, budgets)
    remedy = "take fewer slots, fewer frames, shorter answers, or keep fewer prefixes (cache_bytes)"
    return require_memory(needed, mesh, remedy)
