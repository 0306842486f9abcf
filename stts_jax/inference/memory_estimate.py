"""Estimates the memory that answers take, before a model is loaded.

The estimate is a bound by hand, not the compiler's count: of each part of the model it takes the
arrays of one block that live at the same time, and supposes that attention works block by block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
from jax.sharding import Mesh

from stts_jax.budget import Budget, batch_bytes
from stts_jax.config import Config, ConfigError, ModelConfig
from stts_jax.inference.cpu_cache import copied_bytes
from stts_jax.parallel.memory import bytes_on_a_device, free_memory, gigabytes
from stts_jax.parallel.mesh import parameter_shardings
from stts_jax.parallel.parameters import named_parameters
from stts_jax.parallel.platform import compute_dtype

# Arrays of a block's width that live at once: residual, norm, query, key, value, output and two
# that XLA makes of them. Of its MLP's width: gate, up (in the LLM) and their product.
_WIDE, _MLP_WIDE = 8, 2
# Keys that attention reads at a time, for all queries of a row and all heads, in float32.
_KEY_BLOCK = 1024
# Constants of a program, and arrays that are small in any model.
_SMALL_BYTES = 1 << 20


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one device, or in the main memory of a machine without one.

    Attributes:
      parameters: in the type that they are computed in.
      copies: of parameters that the compiler makes on a CPU.
      activations: of one batch, with its cache and its pixels.
    """

    parameters: int
    copies: int
    activations: int

    @property
    def total(self) -> int:
        """Returns the sum."""
        return self.parameters + self.copies + self.activations

    def __add__(self, other: MemoryEstimate) -> MemoryEstimate:
        """Returns what two models take at once."""
        return MemoryEstimate(
            self.parameters + other.parameters,
            self.copies + other.copies,
            self.activations + other.activations,
        )

    def __str__(self) -> str:
        copied = f", {gigabytes(self.copies)} for copies that a CPU's compiler makes"
        return (
            f"{gigabytes(self.total)} ({gigabytes(self.parameters)} for parameters"
            f"{copied if self.copies else ''}, {gigabytes(self.activations)} for activations)"
        )


def memory_to_answer(
    shapes: Any, config: Config, mesh: Mesh, budget: Budget, rows: int
) -> MemoryEstimate:
    """Returns what a model takes to answer a batch of questions, or to score its tokens.

    Args:
      shapes: the parameters, in the types that they are loaded in; without an LLM, of scoring.
      config: of the run.
      mesh: that the model is placed on.
      budget: of a row.
      rows: of a batch.
    """
    model, platform = config.model, mesh.devices.flat[0].platform
    answers = any(name.startswith("llm.") for name in named_parameters(shapes))
    widened = platform == "cpu"
    itemsize = 4 if widened else compute_dtype(model.compute_dtype).itemsize
    row = vision_bytes(model, budget, itemsize)
    if answers:
        row = max(row, llm_bytes(model, budget, itemsize))
        row += cache_bytes(model, budget, config.eval.max_new_tokens, itemsize)
    return MemoryEstimate(
        bytes_on_a_device(shapes, parameter_shardings(shapes, mesh)),
        _copied_on_a_cpu(shapes, model) if widened else 0,
        rows * row + batch_bytes(budget, model, rows) + _SMALL_BYTES,
    )


def vision_bytes(model: ModelConfig, budget: Budget, itemsize: int) -> int:
    """Returns the bytes of activations of the ViT for one row, before tokens are dropped."""
    vit = model.vit
    features = len(vit.resolved_feature_layers) * vit.width
    width = _WIDE * vit.width + _MLP_WIDE * vit.mlp_width + features
    return budget.frames * vit.patches * width * itemsize


def llm_bytes(model: ModelConfig, budget: Budget, itemsize: int) -> int:
    """Returns the bytes of activations of the LLM for one row."""
    llm = model.llm
    width = _WIDE * llm.width + _MLP_WIDE * llm.mlp_width
    scores = llm.heads * min(budget.tokens, _KEY_BLOCK) * 4
    return budget.tokens * (width * itemsize + scores) + llm.vocab_size * 4


def question_bytes(model: ModelConfig, tokens: int, before: int, itemsize: int) -> int:
    """Returns the bytes of activations of the LLM for a question after a prefix.

    Its attention may have all scores at once, which counts for long texts alone.

    Args:
      model: sizes.
      tokens: of the question.
      before: tokens of the prefix.
      itemsize: bytes of an activation.
    """
    llm = model.llm
    width = _WIDE * llm.width + _MLP_WIDE * llm.mlp_width
    scores = llm.heads * (before + tokens) * 4
    return tokens * (width * itemsize + scores) + llm.vocab_size * 4


def cache_bytes(model: ModelConfig, budget: Budget, new_tokens: int, itemsize: int) -> int:
    """Returns the bytes of the keys and values of one row."""
    llm = model.llm
    width = 2 * llm.layers * llm.kv_heads * llm.head_dim
    return (budget.tokens + new_tokens) * width * itemsize


@runtime_checkable
class Estimate(Protocol):
    """An estimate of bytes on one device; as text it says what they are for."""

    @property
    def total(self) -> int:
        """Returns all of them."""


def require_memory(estimate: Estimate, mesh: Mesh, remedy: str) -> str:
    """Returns a line that says what is needed and what is there.

    Args:
      estimate: what is needed.
      mesh: of the devices.
      remedy: what a user can change.

    Raises:
      ConfigError: if it is more than a device has free.
    """
    device = mesh.local_devices[0]
    free = free_memory(device)
    kind = "this machine" if device.platform == "cpu" else f"each device ({device.device_kind})"
    if free is None:
        return f"about {estimate} are needed; {kind} doesn't say what is free"
    if estimate.total > free:
        raise ConfigError(
            f"about {estimate} are needed, and {kind} has {gigabytes(free)} free; {remedy}"
        )
    return f"about {estimate} of the {gigabytes(free)} that {kind} has free"


def _copied_on_a_cpu(shapes: Any, model: ModelConfig) -> int:
    """Returns the bytes of what XLA:CPU copies of parameters, as seen in its reports.

    The ViT's blocks run in several loops, between which features are taken and tokens dropped; each
    loop has a slice of their stack. Types narrower than float32 are widened, a block of the LLM at
    a time. A step of decoding holds the transpose of a float32 embedding that is the head too, and
    the blocks of the LLM if they are small.
    """
    leaves = named_parameters(shapes)

    def of(prefix: str) -> list[Any]:
        return [leaf for name, leaf in leaves.items() if name.startswith(prefix)]

    copied = sum(leaf.size * leaf.dtype.itemsize for leaf in of("vit.blocks."))
    llm = of("llm.blocks.")
    copied += copied_bytes(llm)
    copied += sum(4 * leaf.size // leaf.shape[0] for leaf in llm if leaf.dtype.itemsize < 4)
    head = leaves.get("llm.embedding") if model.llm.tied_head else None
    if head is not None and head.dtype == jnp.float32:
        copied += head.size * head.dtype.itemsize
    return copied
