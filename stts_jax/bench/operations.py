"""The ideal model: FLOPs and bytes of every operation of a forward pass, and the time of both.

An operation reads what it needs from memory once and writes what it makes once, in bfloat16; norms,
activations, biases, rotations and residual sums are fused with the matrix products, and
attention keeps its scores to itself. So no program moves less unless it joins products.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from stts_jax.budget import Budget
from stts_jax.config import ModelConfig
from stts_jax.fit.hardware import Chip
from stts_jax.training.flops import attention_flops, forward_flops

# Of bfloat16.
BYTES = 2


@dataclass(frozen=True)
class Operation:
    """One kind of operation, summed over a forward pass.

    Attributes:
      part: as `PartFlops.name`.
      name: `embedding`, `gather`, `projections`, `attention` or `mlp`; empty where a part is
        counted as one.
      flops: of it.
      bytes: read from memory and written to it.
    """

    part: str
    name: str
    flops: float
    bytes: float

    def seconds(self, chip: Chip) -> float:
        """Returns the time at the chip's peak rates, arithmetic and memory overlapped."""
        return max(self.flops / chip.flops, self.bytes / chip.memory_rate)


def operations(model: ModelConfig, budget: Budget) -> list[Operation]:
    """Returns the operations of the forward pass of one full row.

    The FLOPs add up to `forward_flops`.

    Args:
      model: the configuration.
      budget: static sizes of the row.
    """
    forward = forward_flops(model, budget)
    found = [*_vit(model, budget, forward), *_llm(model, budget, forward)]
    small = {
        "scorer": _scorer_values(model, budget),
        "connector": _connector_values(model, budget),
        # Logits stay in chunks that a loss takes up.
        "head": model.llm.width * (budget.text + model.llm.vocab_size),
    }
    found += [
        Operation(part, "", forward[part], BYTES * float(values))
        for part, values in small.items()
        if part in forward
    ]
    return found


def _vit(model: ModelConfig, budget: Budget, forward: dict[str, float]) -> Iterator[Operation]:
    vit, prune = model.vit, model.prune
    inner = vit.heads * vit.head_dim
    dense, patches = model.dense_blocks, budget.frames * vit.patches
    attention = attention_flops(model, budget)
    embed = 2.0 * patches * vit.patch_dim * vit.width
    # Pixels come as bytes.
    pixels = patches * vit.patch_dim / BYTES
    values = pixels + vit.width * (patches + vit.patch_dim)
    yield Operation("vit_before", "embedding", embed, BYTES * values)
    if prune.drops_patches:
        yield Operation("vit_after", "gather", 0.0, BYTES * 2.0 * budget.patches * vit.width)
    for part, blocks, positions in (
        ("vit_before", dense, patches),
        ("vit_after", vit.depth - dense, budget.patches if prune.drops_patches else patches),
    ):
        if not blocks:
            continue
        products = forward[part] - attention[part] - (embed if part == "vit_before" else 0.0)
        sizes = _Block(vit.width, inner, inner, vit.mlp_width, mlp_kernels=2)
        yield from sizes.operations(part, blocks, positions, products, attention[part])


def _llm(model: ModelConfig, budget: Budget, forward: dict[str, float]) -> Iterator[Operation]:
    llm, attention = model.llm, attention_flops(model, budget)["llm"]
    queries, keys = llm.heads * llm.head_dim, llm.kv_heads * llm.head_dim
    sizes = _Block(llm.width, queries, keys, llm.mlp_width, mlp_kernels=3)
    products = forward["llm"] - attention
    yield from sizes.operations("llm", llm.layers, budget.tokens, products, attention)


@dataclass(frozen=True)
class _Block:
    """Widths of a transformer block."""

    width: int
    queries: int
    keys: int
    hidden: int
    mlp_kernels: int

    def operations(
        self, part: str, blocks: int, positions: int, products: float, attention: float
    ) -> Iterator[Operation]:
        """Yields the operations of all blocks: projections, attention and MLP."""
        width, heads = self.width, self.queries + 2 * self.keys
        projections = width * (heads + self.queries)
        mlp = self.mlp_kernels * width * self.hidden
        share = projections / (projections + mlp)
        # In and out of queries, keys and values; of the heads' outputs and the residual.
        moved = (width + heads) + (self.queries + 2 * width)
        values = positions * moved + projections
        yield Operation(part, "projections", products * share, BYTES * float(blocks * values))
        values = positions * (heads + self.queries)
        yield Operation(part, "attention", attention, BYTES * float(blocks * values))
        values = positions * (3 * width + 2 * self.hidden) + mlp
        yield Operation(part, "mlp", products * (1 - share), BYTES * float(blocks * values))


def _scorer_values(model: ModelConfig, budget: Budget) -> float:
    """Counts values moved: patches, keys and values, then pooled tokens in the scoring layers."""
    vit, tokens = model.vit, budget.frames * model.tokens_per_frame
    inner, patches = vit.heads * vit.head_dim, tokens * model.prune.pooling**2
    kernels = 4 * vit.width * inner + (2 * vit.width + vit.mlp_width) * vit.mlp_width
    pooled = tokens * (4 * vit.width + 4 * vit.mlp_width)
    return float(patches * (vit.width + 4 * inner) + pooled + kernels)


def _connector_values(model: ModelConfig, budget: Budget) -> float:
    """Counts values moved: features, keys and values, then pooled tokens in the projector."""
    vit, connector, llm = model.vit, model.connector, model.llm
    entries = max(model.prune.pooling, connector.image_pooling) ** 2
    features = vit.width * len(vit.feature_layers)
    inner, hidden = connector.heads * connector.head_dim, connector.mlp_width
    kernels = inner * (3 * features + connector.width)
    kernels += hidden * (2 * connector.width + llm.width)
    pooled = budget.visual * (features + 4 * inner + 2 * connector.width + 2 * hidden + llm.width)
    return float(budget.visual * entries * (features + 4 * inner) + pooled + kernels)
