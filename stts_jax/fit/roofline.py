"""The step time that the peak rates allow: the slowest of arithmetic, memory and links."""

from __future__ import annotations

from dataclasses import dataclass

from stts_jax.fit.hardware import Chip
from stts_jax.training.flops import StepFlops


@dataclass(frozen=True)
class Roofline:
    """Seconds of one step if nothing but one thing took time.

    Attributes:
      compute: all FLOPs, those done again too, at the peak.
      memory: every argument read once and every result written once.
      links: all collectives, one after the other, at what the links carry.
    """

    compute: float
    memory: float
    links: float

    @property
    def seconds(self) -> float:
        """No step is faster; the three may overlap wholly."""
        return max(self.compute, self.memory, self.links)

    @property
    def bound(self) -> str:
        """Which of the three it is."""
        return max(("compute", "memory", "links"), key=lambda name: getattr(self, name))


def roofline(flops: StepFlops, chip: Chip, devices: int, *, moved: int, sent: int) -> Roofline:
    """The bound of one step.

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
