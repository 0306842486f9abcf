"""Estimates the memory that a run takes, and compares it with what its devices have free.

The estimate is meant from below: its gradients and activations are 0.51 to 1.01 times what the
compilers count in docs/fit.md. `python -m stts_jax.fit` has the compiler's own count.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from jax.sharding import Mesh

from stts_jax.budget import Budget, batch_bytes
from stts_jax.config import Config, ModelConfig
from stts_jax.inference.memory_estimate import require_memory
from stts_jax.parallel.memory import bytes_per_device, gigabytes
from stts_jax.parallel.mesh import BATCH_AXES
from stts_jax.parallel.parameters import named_parameters
from stts_jax.parallel.platform import compute_dtype
from stts_jax.training.optimizer import is_trained
from stts_jax.training.step import TrainState

# Arrays of a block's width, and of its MLP's width, that live at once while its gradients are made.
_WIDE, _MLP_WIDE = 6, 2
_REMEDY = (
    "share it among more devices (train.mesh.fsdp), take fewer or shorter rows (data.batch_rows, "
    "data.row_frames) or more parts (train.accumulate), drop more tokens (model.prune.topk), train "
    "adapters (train.lora.rank=16), or train a smaller model"
)


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes on one device, or in the main memory of a machine without one.

    Attributes:
      parameters, gradients, moments: of the state.
      copies: of frozen parameters that the compiler makes on a CPU.
      activations: of one part of a batch, with the batch.
    """

    parameters: int
    gradients: int
    moments: int
    copies: int
    activations: int

    @property
    def total(self) -> int:
        """Returns the sum."""
        return self.parameters + self.gradients + self.moments + self.copies + self.activations

    def __str__(self) -> str:
        copied = f"{gigabytes(self.copies)} for copies that a CPU's compiler makes, "
        return (
            f"{gigabytes(self.total)} ({gigabytes(self.parameters)} for parameters, "
            f"{gigabytes(self.gradients)} for gradients, {gigabytes(self.moments)} for moments, "
            f"{copied if self.copies else ''}{gigabytes(self.activations)} for activations)"
        )


def require_run_fits(state: TrainState, config: Config, mesh: Mesh, budget: Budget) -> str:
    """Returns a line on the memory that a run takes at least, and what there is.

    Args:
      state: shapes and shardings, see `step.abstract_state`.
      config: of the run.
      mesh: that the run is trained on.
      budget: of a row.

    Raises:
      ConfigError: if there isn't so much.
    """
    return require_memory(memory_to_train(state, config, mesh, budget), mesh, _REMEDY)


def memory_to_train(
    state: TrainState, config: Config, mesh: Mesh, budget: Budget
) -> TrainingMemory:
    """Returns what a training step takes at least; see `require_run_fits` for the arguments."""
    platform = mesh.devices.flat[0].platform
    # The devices of a CPU share one memory.
    holders = len(mesh.local_devices) if platform == "cpu" else 1
    named = named_parameters(state.model)
    trained = [leaf for name, leaf in named.items() if is_trained(name, config.train)]
    itemsize = compute_dtype(config.model.compute_dtype).itemsize
    rows = config.data.batch_rows // math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    activations = activation_bytes(config, budget, itemsize, mesh.shape)
    activations += batch_bytes(budget, config.model, max(rows, 1))
    return TrainingMemory(
        holders * bytes_per_device(state.model),
        holders * bytes_per_device(trained),
        holders * bytes_per_device(state.optimizer),
        _copied_on_a_cpu(state, config) if platform == "cpu" else 0,
        holders * activations,
    )


def _copied_on_a_cpu(state: TrainState, config: Config) -> int:
    """Returns the bytes of what XLA:CPU copies of a frozen model, as seen in its report.

    A slice of the ViT's stacked blocks for each of the loops over them; and of parameters that are
    held in fewer bytes than float32, a block of the LLM and the head in float32, the latter for
    either pass.
    """
    named = named_parameters(state.model)
    narrow = {n: leaf for n, leaf in named.items() if leaf.ndim > 1 and leaf.dtype.itemsize < 4}
    vit = sum(
        leaf.size * leaf.dtype.itemsize
        for name, leaf in narrow.items()
        if name.startswith("vit.blocks.")
    )
    llm = (leaf for name, leaf in narrow.items() if name.startswith("llm.blocks."))
    head = narrow.get("llm.embedding" if config.model.llm.tied_head else "llm.head")
    widened = sum(4 * leaf.size // leaf.shape[0] for leaf in llm)
    return vit + widened + (0 if head is None else 2 * 4 * head.size)


def activation_bytes(config: Config, budget: Budget, itemsize: int, mesh: Mapping[str, int]) -> int:
    """Returns the bytes that a device's part of a batch keeps for the backward pass, at least.

    With `model.remat=blocks` that is what enters each block, and all of one block of the ViT or the
    LLM; else all of every block.

    Args:
      config: of the run.
      budget: of a row.
      itemsize: of activations.
      mesh: devices along each axis.
    """
    parts = config.train.accumulate * math.prod(mesh[axis] for axis in BATCH_AXES)
    rows = max(config.data.batch_rows // parts, 1)
    sharers = mesh["tensor"] * mesh["context"]
    vit, llm = config.model.vit, config.model.llm
    patches = budget.frames * vit.patches
    tokens = _block_tokens(config.model, budget)
    of_patch = _WIDE * vit.width + _MLP_WIDE * vit.mlp_width
    of_token = _WIDE * llm.width + _MLP_WIDE * llm.mlp_width
    if config.model.remat == "blocks":
        kept = sum(tokens) * vit.width + llm.layers * budget.tokens * llm.width
        kept += max(patches * of_patch, budget.tokens * of_token)
    else:
        kept = sum(tokens) * of_patch + llm.layers * budget.tokens * of_token
    return rows * kept * itemsize // sharers


def _block_tokens(model: ModelConfig, budget: Budget) -> list[int]:
    """Returns the patches of a row in each block of the ViT."""
    patches, dense = budget.frames * model.vit.patches, model.dense_blocks
    kept = budget.patches if model.prune.drops_patches else patches
    return [patches] * dense + [kept] * (model.vit.depth - dense)
