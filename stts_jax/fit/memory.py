"""Bytes of one device by kind, from the compiler's own report or from its refusal."""

from __future__ import annotations

import re
from dataclasses import dataclass

import jax

from stts_jax.fit.hardware import Chip
from stts_jax.fit.hlo import Module, array_bytes
from stts_jax.fit.programs import LoweredProgram

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_TEMPORARIES = re.compile(r"HLO temporaries \(([\d.]+)([KMGT]?)\) exceeds.*?\(([\d.]+)([KMGT]?)\)")
_USED = re.compile(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm")


@dataclass(frozen=True)
class Memory:
    """Bytes of one device.

    Attributes:
      by_kind: `parameters`, `optimizer`, `batch`, `cache`, `temporaries` (activations and all else
        that lives within the step), `outputs` that take no argument's place, `program`, and
        `padding` of the arguments by their layout.
      limit: that a program may use.
      measured: False where the compiler refused: the temporaries are then what it said it would
        need, and nothing is known of outputs and program.
    """

    by_kind: dict[str, int]
    limit: int
    measured: bool

    @property
    def total(self) -> int:
        """Returns the sum of all kinds."""
        return sum(self.by_kind.values())

    @property
    def left(self) -> int:
        """Returns the free bytes, negative where the program is too large."""
        return self.limit - self.total

    @property
    def fits(self) -> bool:
        """Returns whether the program can run."""
        return self.measured and self.left >= 0


def memory_of(compiled: jax.stages.Compiled, program: LoweredProgram, chip: Chip) -> Memory:
    """Returns the memory of a compiled program."""
    found = compiled.memory_analysis()
    assert found is not None
    arguments = program.argument_bytes
    padding = found.argument_size_in_bytes - sum(arguments.values())
    outputs = max(found.output_size_in_bytes - found.alias_size_in_bytes, 0)
    temporaries = found.temp_size_in_bytes
    if chip.platform == "tpu":
        # There it counts the gaps between the arrays twice; the peak doesn't.
        temporaries = found.peak_memory_in_bytes - found.argument_size_in_bytes - outputs
    return Memory(
        {
            **arguments,
            "temporaries": temporaries,
            "outputs": outputs,
            "program": found.generated_code_size_in_bytes,
            "padding": max(padding, 0),
        },
        chip.memory,
        measured=True,
    )


def memory_of_refusal(message: str, program: LoweredProgram, limit: int) -> Memory | None:
    """Returns the memory of a program that the compiler refused; None for another reason."""
    arguments = program.argument_bytes
    if found := _TEMPORARIES.search(message):
        needed, limit = _bytes(*found.group(1, 2)), _bytes(*found.group(3, 4))
    elif found := _USED.search(message):
        used, limit = _bytes(*found.group(1, 2)), _bytes(*found.group(3, 4))
        needed = max(used - sum(arguments.values()), 0)
    else:
        return None
    return Memory({**arguments, "temporaries": needed}, limit, measured=False)


def largest_arrays(module: Module, count: int) -> list[dict[str, object]]:
    """Returns the largest arrays of a program, one for each shape and source.

    Views and intermediates of fusions are left out. Arrays may share memory, so their sizes don't
    add up.
    """
    inner = {name for name in module.computations if "fused" in name or "fusion" in name}
    skipped = ("parameter", "get-tuple-element", "tuple", "bitcast", "while", "constant", "")
    best: dict[tuple[str, str], dict[str, object]] = {}
    for name, instructions in module.computations.items():
        if name in inner or not module.runs.get(name):
            continue
        for instruction in instructions:
            if instruction.opcode in skipped or instruction.result.startswith("("):
                continue
            shape = instruction.result.split("{")[0].strip()
            best[shape, instruction.source] = {
                "array": shape,
                "bytes": array_bytes(shape),
                "source": instruction.source,
            }
    return sorted(best.values(), key=lambda entry: -int(str(entry["bytes"])))[:count]


def _bytes(number: str, unit: str) -> int:
    return int(float(number) * _UNITS[unit])
