"""Peak rates and memory of the chips, from their makers' data sheets."""

from __future__ import annotations

from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """Peak rates of one device, 0 where they aren't known.

    Attributes:
      name: short name.
      platform: `tpu`, `gpu` or `cpu`.
      flops: bfloat16 FLOP/s, dense.
      memory: bytes that a program may use; on TPUs what their compiler says when it refuses.
      memory_rate: bytes/s to and from that memory.
      link_rate: bytes/s that the device can send to the others, all links together, one way.
    """

    name: str
    platform: str
    flops: float
    memory: int
    memory_rate: float
    link_rate: float

    @property
    def has_rates(self) -> bool:
        """Returns whether the peak rates are known."""
        return min(self.flops, self.memory_rate, self.link_rate) > 0


# Of a GPU's memory, what is left of CUDA's own, NCCL's and what fragmentation costs.
USABLE_GPU_MEMORY = 0.95
# Rates, TPU: docs.cloud.google.com/tpu/docs/v5e, /v5p, /v6e (bidirectional link figures, halved).
# H100 SXM: NVIDIA's data sheet; NVLink 900 GB/s both ways.
# Memory, TPU: what libtpu 0.0.52 names when it refuses a program that is too large ("exceeds
# available HBM (31.24G)"). H100: what the device reports, less a twentieth for CUDA, NCCL and
# fragmentation, of which XLA's allocator never gets all.
CHIPS = {
    "TPU v5 lite": Chip("v5e", "tpu", 197e12, int(15.75 * GIB), 819e9, 200e9),
    "TPU v5": Chip("v5p", "tpu", 459e12, int(95.73 * GIB), 2765e9, 600e9),
    "TPU v6 lite": Chip("v6e", "tpu", 918e12, int(31.24 * GIB), 1638e9, 400e9),
    "NVIDIA H100 80GB HBM3": Chip(
        "h100", "gpu", 989e12, int(USABLE_GPU_MEMORY * 84978434048), 3352e9, 450e9
    ),
}
