"""Settings of low-rank adapters (LoRA, arXiv 2106.09685)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from stts_jax.config.checks import require, require_within_limits
from stts_jax.quoting import shorten

# Layers that can have an adapter, by part of the model.
ADAPTABLE_LAYERS = tuple(
    f"{part}.{layer}"
    for part, layers in {
        "llm": ("query", "key", "value", "output", "mlp.gate", "mlp.up", "mlp.down"),
        "vit": (
            *("attention.query", "attention.key", "attention.value", "attention.output"),
            *("mlp.up", "mlp.down"),
        ),
        "connector": (
            *("pooler.query", "pooler.key", "pooler.value", "pooler.output"),
            *("projector.gate", "projector.up", "projector.down"),
        ),
    }.items()
    for layer in layers
)
# These, and whatever of the model holds several of them: `llm`, `vit.attention`.
TARGETS = tuple(
    dict.fromkeys(
        target
        for layer in ADAPTABLE_LAYERS
        for target in accumulate(layer.split("."), lambda owner, part: f"{owner}.{part}")
    )
)

FrozenWeights = Literal["compute", "bfloat16", "int8"]


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters of dense layers: `W x + (alpha / rank) B A x`, W frozen.

    With a rank above 0, adapters and the scorer are trained and all else is frozen.

    Attributes:
      rank: width of A's result; 0 trains without adapters.
      alpha: the adapters' results are multiplied by alpha / rank.
      dropout: share of an adapter's inputs that are dropped in training.
      targets: layers that get adapters: a part of the model (llm, vit, connector), or layers in it
        (llm.mlp, vit.attention, llm.query).
    """

    rank: int = 0
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("llm",)

    def __post_init__(self) -> None:
        require_within_limits("train.lora", self)
        require(self.rank >= 0, f"train.lora.rank is {self.rank}; use 0 (no adapters) or more")
        require(self.alpha > 0, f"train.lora.alpha is {self.alpha}; set it above 0")
        require(
            0.0 <= self.dropout < 1.0, f"train.lora.dropout is {self.dropout}; use 0 to below 1"
        )
        require(
            bool(self.targets), f"train.lora.targets is empty; choose from {', '.join(TARGETS)}"
        )
        for target in self.targets:
            require(
                target in TARGETS,
                f"train.lora.targets has {shorten(target)}; choose from {', '.join(TARGETS)}",
            )

    @property
    def layers(self) -> tuple[str, ...]:
        """Returns the layers that have adapters, of `ADAPTABLE_LAYERS`; empty with rank 0."""
        if not self.rank:
            return ()
        owners = tuple(f"{target}." for target in self.targets)
        return tuple(layer for layer in ADAPTABLE_LAYERS if f"{layer}.".startswith(owners))
