"""Computes the model FLOPs utilization (MFU): the share of the chips' peak that a run reaches."""

from __future__ import annotations

from dataclasses import dataclass

import jax

from stts_jax.budget import Budget
from stts_jax.config import Config
from stts_jax.training.flops import training_flops

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


def peak_flops(device_kind: str) -> float | None:
    """Returns the dense bfloat16 FLOP/s of a device, None if not in `PEAK_FLOPS` (a CPU, say)."""
    return next((p for kind, p in PEAK_FLOPS.items() if device_kind.startswith(kind)), None)


@dataclass(frozen=True)
class Throughput:
    """Sizes from which the rates in the log are computed.

    Attributes:
      devices: number of devices of the run.
      flops: of forward and backward of a full batch over all devices, with all patches in the ViT
        up to the prune and the kept ones after it.
      peak: FLOP/s of one device, None where unknown.
    """

    devices: int
    flops: float
    peak: float | None

    @staticmethod
    def of(config: Config, budget: Budget, devices: list[jax.Device]) -> Throughput:
        """Returns those of a run on these devices."""
        flops = training_flops(config, budget, config.data.batch_rows).model
        return Throughput(len(devices), flops, peak_flops(devices[0].device_kind))

    def mfu(self, steps_per_second: float) -> float | None:
        """Returns the share of the peak, 0 to 1; None if the peak is unknown."""
        if self.peak is None:
            return None
        return self.flops * steps_per_second / (self.devices * self.peak)
