"""A TPU compiler's estimate of cycles for each operation.

Custom kernels have no estimate, nor have GPU programs and those that were only planned.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from stts_jax.fit.hlo import Module

_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')


@dataclass(frozen=True)
class Estimate:
    """One operation of a compiled program.

    Attributes:
      cycles: of all its runs in one step.
      runs: how often it runs.
      result: type, shape and layout of the result, as text.
      source: the operation of the model that it belongs to.
    """

    cycles: int
    runs: int
    result: str
    source: str


def estimates(module: Module) -> list[Estimate]:
    """Returns the estimates of all operations that have one, longest first."""
    found = []
    for name, instructions in module.computations.items():
        runs = module.runs.get(name, 0)
        for instruction in instructions:
            cycles = _CYCLES.search(instruction.text)
            if cycles and runs:
                found.append(
                    Estimate(
                        runs * int(cycles.group(1)), runs, instruction.result, instruction.source
                    )
                )
    return sorted(found, key=lambda estimate: estimate.cycles, reverse=True)
