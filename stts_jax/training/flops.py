"""Counts the FLOPs of a step from its sizes, and the share of the chips' peak (MFU) they make.

A compiler's count has the body of a scan once and kernels hardly at all, so it is of no use for
utilization. One multiplication with its addition is 2 FLOPs; norms, rotations, softmax and
the optimizer are left out, as is common. Attention counts the pairs that may see each other, not
those that a dense product makes on top of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import jax

from stts_jax.budget import Budget
from stts_jax.config import Config, ModelConfig
from stts_jax.train_ratios import RatioDraw, at_ratio, step_budget

# Parts in the order of the forward pass, with the setting that freezes each.
_PARTS = {
    "vit_before": "vit",
    "scorer": "scorer",
    "vit_after": "vit",
    "connector": "connector",
    "llm": "llm",
    "head": "llm",
}
# Dense bfloat16 FLOP/s of one JAX device, by the start of its `device_kind`; the first that
# matches. TPUs: docs.cloud.google.com/tpu/docs (a v4 device is a whole chip). GPUs: NVIDIA's data
# sheets, without sparsity.
PEAK_FLOPS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v6": 918e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
}


@dataclass(frozen=True)
class PartFlops:
    """FLOPs of one part of the model.

    Attributes:
      name: `vit_before` and `vit_after` the prune, `scorer`, `connector`, `llm`, `head`.
      forward: of the forward pass.
      backward: of the backward pass, 0 without training.
      recompute: of what the backward pass rematerialises.
    """

    name: str
    forward: float
    backward: float = 0.0
    recompute: float = 0.0


@dataclass(frozen=True)
class StepFlops:
    """FLOPs of one step over all devices."""

    parts: tuple[PartFlops, ...]

    @property
    def model(self) -> float:
        """FLOPs of forward and backward, from which utilization (MFU) is computed."""
        return sum(part.forward + part.backward for part in self.parts)

    @property
    def recompute(self) -> float:
        """FLOPs of rematerialisation."""
        return sum(part.recompute for part in self.parts)

    @property
    def executed(self) -> float:
        """FLOPs of forward, backward and rematerialisation."""
        return self.model + self.recompute


def training_flops(config: Config, budget: Budget, rows: int) -> StepFlops:
    """Returns the FLOPs of one training step.

    Args:
      config: of the run; `model.remat` decides what is rematerialised.
      budget: static sizes of a row; full rows are assumed.
      rows: in the batch, over all devices.
    """
    forward = forward_flops(config.model, budget)
    attention = attention_flops(config.model, budget)
    backward_units = _backward_units(config)
    blocks = config.model.remat == "blocks"
    parts = []
    for name, flops in forward.items():
        flops *= rows
        backward = flops * backward_units[name]
        # Attention always recomputes its scores, and once more in a rematerialised block; each
        # chunk of logits is recomputed too.
        recompute = attention.get(name, 0.0) * rows
        if name == "head" or (blocks and name in ("vit_before", "vit_after", "llm")):
            recompute += flops
        parts.append(PartFlops(name, flops, backward, recompute if backward else 0.0))
    return StepFlops(tuple(parts))


def _backward_units(config: Config) -> dict[str, int]:
    """Returns the FLOPs of each part's backward pass, in units of its forward pass.

    One unit for the gradients of its inputs, unless nothing is trained in it or before it; one for
    those of its parameters, unless they are frozen. Adapters are too small to count.
    """
    train, reached, units = config.train, False, {}
    adapted = {layer.split(".")[0] for layer in train.lora.layers}
    has_scorer = config.model.prune.method == "scorer"
    frozen_head = train.freeze_base_embedding and config.model.llm.tied_head
    for part, owner in _PARTS.items():
        whole = owner == "scorer" or not (train.lora.rank or owner in train.freeze)
        whole &= not (part == "head" and frozen_head)
        reached |= (whole and (owner != "scorer" or has_scorer)) or owner in adapted
        units[part] = int(reached) + int(whole)
    return units


def prefill_flops(model: ModelConfig, budget: Budget, rows: int) -> StepFlops:
    """Returns the FLOPs of prefill: the forward pass, with logits of one position a row."""
    forward = forward_flops(model, budget) | {"head": head_flops(model, 1)}
    return StepFlops(tuple(PartFlops(name, flops * rows) for name, flops in forward.items()))


def decode_flops(model: ModelConfig, cached: int, rows: int) -> StepFlops:
    """Returns the FLOPs of decoding one token of each row, with a cache of `cached` positions."""
    llm = model.llm
    attend = _attention(cached, llm.heads * llm.head_dim) * llm.layers
    parts = {"llm": llm_token_flops(model) + attend, "head": head_flops(model, 1)}
    return StepFlops(tuple(PartFlops(name, flops * rows) for name, flops in parts.items()))


def forward_flops(model: ModelConfig, budget: Budget) -> dict[str, float]:
    """Returns the FLOPs of the forward pass of one full row, by part; see `PartFlops`."""
    vit, prune = model.vit, model.prune
    attention = attention_flops(model, budget)
    dense = model.dense_blocks
    patches = budget.frames * vit.patches
    kept = budget.patches if prune.drops_patches else patches
    embed = 2 * patches * vit.patch_dim * vit.width
    parts = {
        "vit_before": embed
        + patches * dense * vit_token_flops(model)
        + attention.get("vit_before", 0.0),
        "vit_after": kept * (vit.depth - dense) * vit_token_flops(model)
        + attention.get("vit_after", 0.0),
        "scorer": scorer_frame_flops(model) * budget.frames if prune.method == "scorer" else 0.0,
        "connector": connector_token_flops(model) * budget.visual,
        "llm": budget.tokens * llm_token_flops(model) + attention["llm"],
        # Only tokens of text can bear a loss.
        "head": head_flops(model, budget.text),
    }
    return {name: float(flops) for name, flops in parts.items() if flops}


def attention_flops(model: ModelConfig, budget: Budget) -> dict[str, float]:
    """Returns the part of `forward_flops` in attention's two products, over visible pairs.

    Kept patches are taken to be spread evenly over the frames that may lose any; first frames
    lose none. Examples are taken to be alike.
    """
    vit, prune, llm = model.vit, model.prune, model.llm
    inner = vit.heads * vit.head_dim
    dense = model.dense_blocks
    whole = budget.frames * vit.patches**2
    after = _kept_pairs(model, budget) if prune.drops_patches else whole
    parts = {
        "vit_before": dense * _attention(whole, inner),
        "vit_after": (vit.depth - dense) * _attention(after, inner),
        "llm": llm.layers * _attention(_token_pairs(model, budget), llm.heads * llm.head_dim),
    }
    return {name: float(flops) for name, flops in parts.items() if flops}


def vit_token_flops(model: ModelConfig) -> float:
    """Returns the FLOPs of one patch in one block, without attention's two products."""
    vit = model.vit
    inner = vit.heads * vit.head_dim
    return 2.0 * (4 * vit.width * inner + 2 * vit.width * vit.mlp_width)


def scorer_frame_flops(model: ModelConfig) -> float:
    """Returns the FLOPs of one frame in the scorer."""
    vit, tokens = model.vit, model.tokens_per_frame
    inner, entries = vit.heads * vit.head_dim, model.prune.pooling**2
    project = 2 * vit.width * inner * (2 * tokens + 2 * tokens * entries)
    hidden = vit.mlp_width
    rate = 2 * tokens * (2 * vit.width * hidden + hidden * hidden + hidden)
    return float(project + _attention(tokens * entries, inner) + rate)


def connector_token_flops(model: ModelConfig) -> float:
    """Returns the FLOPs of one visual token in the connector."""
    vit, connector = model.vit, model.connector
    entries = max(model.prune.pooling, connector.image_pooling) ** 2
    features = vit.width * len(vit.feature_layers)
    inner = connector.heads * connector.head_dim
    pool = 2 * inner * (features * (1 + 2 * entries) + connector.width)
    project = 2 * connector.mlp_width * (2 * connector.width + model.llm.width)
    return float(pool + _attention(entries, inner) + project)


def llm_token_flops(model: ModelConfig) -> float:
    """Returns the FLOPs of one token in all blocks, without attention's two products."""
    llm = model.llm
    queries, keys = llm.heads * llm.head_dim, llm.kv_heads * llm.head_dim
    projections = llm.width * (2 * queries + 2 * keys)
    return 2.0 * llm.layers * (projections + 3 * llm.width * llm.mlp_width)


def head_flops(model: ModelConfig, positions: int) -> float:
    """Returns the FLOPs of the logits of `positions` tokens."""
    return 2.0 * positions * model.llm.width * model.llm.vocab_size


def peak_flops(device_kind: str) -> float | None:
    """Returns the dense bfloat16 FLOP/s of a device, None if not in `PEAK_FLOPS` (a CPU, say)."""
    return next((p for kind, p in PEAK_FLOPS.items() if device_kind.startswith(kind)), None)


@dataclass(frozen=True)
class Throughput:
    """Sizes from which the rates in the log are computed.

    Attributes:
      devices: number of devices of the run.
      flops: of forward and backward of a full batch over all devices, with all patches in the ViT
        up to the prune and the kept ones after it; in a run over ratios, their mean.
      peak: FLOP/s of one device, None where unknown.
      by_ratio: FLOPs of a batch at each ratio, in a run over ratios.
    """

    devices: int
    flops: float
    peak: float | None
    by_ratio: Mapping[float, float] = field(default_factory=dict)

    @staticmethod
    def of(config: Config, devices: list[jax.Device]) -> Throughput:
        """Returns those of a run on these devices."""
        draw = RatioDraw.of(config)
        by_ratio = {
            ratio: training_flops(
                at_ratio(config, ratio), step_budget(config, ratio), config.data.batch_rows
            ).model
            for ratio in draw.ratios
        }
        peak = peak_flops(devices[0].device_kind)
        return Throughput(len(devices), draw.mean(by_ratio), peak, by_ratio)

    def mfu(self, steps_per_second: float, ratios: Sequence[float] = ()) -> float | None:
        """Returns the share of the peak, 0 to 1; None if the peak is unknown.

        Args:
          steps_per_second: of some steps.
          ratios: of these steps, in a run over ratios.
        """
        if self.peak is None:
            return None
        flops = sum(map(self.by_ratio.__getitem__, ratios)) / len(ratios) if ratios else self.flops
        return flops * steps_per_second / (self.devices * self.peak)


def _attention(pairs: float, inner: int) -> float:
    """Returns the FLOPs of attention's two products over pairs of query and key."""
    return 4.0 * pairs * inner


def _kept_pairs(model: ModelConfig, budget: Budget) -> float:
    patches, videos = model.vit.patches, min(budget.examples, budget.frames)
    later = max(budget.frames - videos, 0)
    left = max(budget.patches - videos * patches, 0)
    return videos * patches**2 + (left**2 / later if later else 0.0)


def _token_pairs(model: ModelConfig, budget: Budget) -> float:
    """Returns the visible pairs of a row: causal, and both ways between visual tokens."""
    videos = budget.examples
    tokens, visual = budget.tokens / videos, budget.visual / videos
    ahead = {
        "none": 0.0,
        "image_tokens": visual * (visual - 1) / 2,
        "within_image": visual * (visual / max(budget.frames / videos, 1) - 1) / 2,
    }[model.llm.bidirectional]
    return videos * (tokens * (tokens + 1) / 2 + max(ahead, 0.0))
