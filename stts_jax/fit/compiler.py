"""Compiling a program: the memory it needs, and its optimised text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax

from stts_jax.fit.hlo import Module, parse_module
from stts_jax.fit.memory import Memory, memory_of, memory_of_refusal
from stts_jax.fit.programs import LoweredProgram
from stts_jax.fit.setting import Setting

# Without a GPU, XLA can't autotune its own matrix products; cuBLAS takes them all, as it does most
# on a GPU.
_OPTIONS: dict[str, jax.stages.CompilerOptions] = {"gpu": {"xla_gpu_enable_triton_gemm": False}}


@dataclass(frozen=True)
class Outcome:
    """The result of compiling.

    Attributes:
      memory: of one device.
      module: the optimised program, None where the compiler refused.
      refusal: the compiler's own words, empty if it didn't refuse.
      planned: whether it was stopped before it wrote machine code.
    """

    memory: Memory
    module: Module | None
    refusal: str = ""
    planned: bool = False


Compiler = Callable[[Setting, LoweredProgram], Outcome]


def compile_wholly(setting: Setting, program: LoweredProgram) -> Outcome:
    """Compiles a program to the end.

    Raises:
      jax.errors.JaxRuntimeError: for a refusal that is not about memory.
    """
    chip = setting.topology.chip
    try:
        compiled = program.lowered.compile(_OPTIONS.get(chip.platform))
    except jax.errors.JaxRuntimeError as error:
        memory = memory_of_refusal(str(error), program, chip.memory)
        if memory is None:
            raise
        return Outcome(memory, None, str(error))
    memory = memory_of(compiled, program, chip)
    return Outcome(memory, parse_module(compiled.as_text() or ""))
