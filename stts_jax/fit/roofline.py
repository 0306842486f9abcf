"""The step time that the peak rates allow: the slowest of arithmetic, memory and links."""

from __future__ import annotations

from dataclasses import dataclass

from stts_jax.fit.hardware import Chip
from stts_jax.training.flops import StepFlops


@dataclass(frozen=True)
class Roofline:
    """Lower bounds of the time of a step, in seconds.

    Attributes:
      compute: all FLOPs, recomputed ones too, at the peak.
      memory: every argument read once and every result written once.
      links: all collectives in sequence, at the rate of the links.
    """

    compute: float
    memory: float
    links: float

    @property
    def seconds(self) -> float:
        """Returns the bound of the step, as the three may overlap fully."""
        return max(self.compute, self.memory, self.links)

    @property
    def bound(self) -> str:
        """Returns the name of the slowest of the three."""
        return max(("compute", "memory", "links"), key=lambda name: getattr(self, name))


def roofline(flops: StepFlops, chip: Chip, devices: int, *, moved: int, sent: int) -> Roofline:
    """Returns the bounds of one step.

    Args:
      flops: of all devices together.
      chip: its peak rates.
      devices: that share the work.
      moved: bytes of arguments and results of one device.
      sent: bytes that one device sends.
    """
    return Roofline(
        flops.executed / devices / chip.flops, moved / chip.memory_rate, sent / chip.link_rate
    )
