"""Compiles attention for each chip: `python -m stts_jax.fit.kernels`.

Nothing runs. Each case is compiled forward and with its gradients; what that took and what the
program would take is written to docs/performance/CHIP.jsonl, and the tables in docs/performance.md
are made of these files and nothing else.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

# As in `__main__`: no device of this machine is started, nothing is taken from a cache.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from stts_jax.arguments import Parser
from stts_jax.command_line import run
from stts_jax.config import ConfigError
from stts_jax.fit.cycles import estimates
from stts_jax.fit.hlo import parse_module
from stts_jax.fit.kernel_cases import CASES, Attend, Case
from stts_jax.fit.topologies import get_topology, tracing_for
from stts_jax.parallel.mesh import make_mesh, on_mesh

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "performance"
DOCUMENT = FOLDER.with_suffix(".md")
MEMORY, CYCLES = "temporary memory", "cycles"
_MARK, _END = "<!-- {}: python -m stts_jax.fit.kernels -->", "<!-- end of {} -->"
PASSES = ("forward", "gradient")
COMPILERS = {"tpu": "libtpu", "gpu": "jax-cuda13-plugin"}
# A kernel whose sums don't fit into registers would go to memory with them. The other two undo
# what makes tests compile quickly. XLA must compile the kernel to see it: up to jaxlib 0.10.2.
NO_SPILLS: dict[str, Any] = {
    "xla_gpu_fail_ptx_compilation_on_register_spilling": True,
    "xla_backend_optimization_level": 3,
    "xla_llvm_disable_expensive_passes": False,
}


@dataclass(frozen=True)
class Record:
    """One compiled program.

    Attributes:
      case: its name.
      way: one of `PASSES`.
      chip: that it is for.
      compiler: and JAX, with their versions.
      seconds: to compile it.
      temporary: bytes of temporary memory on the device.
      cycles: estimated for all but kernels, where the case is `between`; else None.
    """

    case: str
    way: str
    chip: str
    compiler: str
    seconds: float
    temporary: int
    cycles: int | None


def compile_case(case: Case, topology: str) -> list[Record]:
    """Forward, and with gradients, for one device.

    Raises:
      ConfigError: where the compiler isn't installed.
      ValueError: for a way that cannot do it there.
    """
    return [_compile(case, topology, way) for way in PASSES]


def _compile(case: Case, name: str, way: str) -> Record:
    topology = get_topology(name)
    chip = topology.chip
    mesh = make_mesh(devices=topology.devices[:1])
    sharding = NamedSharding(mesh, PartitionSpec())
    arrays = [jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding) for x in case.arrays]
    function = case.attend if way == PASSES[0] else _gradient(case)
    # Kernels need a mesh, to know that they are not sharded. Tests set exact matrix products, which
    # splash passes on even for bfloat16 operands, and its compiler rejects.
    with tracing_for(chip.platform), on_mesh(mesh), jax.default_matmul_precision("default"):
        lowered = jax.jit(function).lower(*arrays)
    begun = time.perf_counter()
    options = NO_SPILLS if is_triton(case) else None
    compiled = lowered.compile(compiler_options=options)
    seconds = time.perf_counter() - begun
    cycles: int | None = None
    if case.between:
        cycles = sum(own.cycles for own in estimates(parse_module(compiled.as_text() or "")))
    memory: Any = compiled.memory_analysis()
    compiler = COMPILERS[chip.platform]
    return Record(
        case.name,
        way,
        chip.name,
        f"{compiler} {version(compiler)}, jax {jax.__version__}",
        round(seconds, 1),
        memory.temp_size_in_bytes,
        cycles,
    )


def is_triton(case: Case) -> bool:
    """Returns whether a case is of a kernel of ours that is compiled by way of Triton."""
    return case.name.startswith(("`stream_gpu`", "`flash_gpu`"))


def _gradient(case: Case) -> Attend:
    def total(*arrays: jax.Array) -> jax.Array:
        return case.attend(*arrays).astype(jnp.float32).sum()

    return jax.grad(total, argnums=case.differentiated)


def read_records(folder: Path = FOLDER) -> list[Record]:
    """Returns the records of all chips."""
    lines = [line for path in sorted(folder.glob("*.jsonl")) for line in path.open()]
    return [Record(**json.loads(line)) for line in lines]


def write_records(new: Iterable[Record], folder: Path = FOLDER) -> None:
    """Replaces the records of the same programs, in a file for each chip."""
    known = {(own.case, own.way, own.chip): own for own in (*read_records(folder), *new)}
    for chip in {chip for _, _, chip in known}:
        records = [
            known[case.name, way, chip]
            for case in CASES
            for way in PASSES
            if (case.name, way, chip) in known
        ]
        lines = [json.dumps(asdict(record)) + "\n" for record in records]
        (folder / f"{chip}.jsonl").write_text("".join(lines))


def memory_table(records: Sequence[Record]) -> list[str]:
    """Returns the table of temporary MiB, forward and with gradients, as Markdown."""
    return _table(
        CASES, records, "what, in MiB, forward and with gradients", lambda x: x.temporary / 2**20
    )


def cycles_table(records: Sequence[Record]) -> list[str]:
    """Returns the table of millions of cycles around the kernels, as Markdown."""
    cases = [case for case in CASES if case.between]
    what = "what, in millions of cycles, forward and with gradients"
    return _table(cases, records, what, lambda x: (x.cycles or 0) / 1e6)


def _table(
    cases: Sequence[Case],
    records: Sequence[Record],
    what: str,
    figure: Callable[[Record], float],
) -> list[str]:
    figures = {(own.case, own.chip, own.way): figure(own) for own in records}
    chips = sorted({own.chip for own in records if own.case in {case.name for case in cases}})
    lines = [f"| {what} | {' | '.join(chips)} |", "|---" * (1 + len(chips)) + "|"]
    for case in cases:
        cells = []
        for chip in chips:
            found = [figures.get((case.name, chip, way)) for way in PASSES]
            cells.append(", ".join(_number(size) for size in found if size is not None))
        if any(cells):
            lines.append(f"| {' | '.join([case.name, *(cell or '-' for cell in cells)])} |")
    return lines


def _number(figure: float) -> str:
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.1f}"


def document_with(text: str, records: Sequence[Record]) -> str:
    """Returns the document with its tables replaced.

    Raises:
      ValueError: where the document has no markers for one.
    """
    for name, lines in ((CYCLES, cycles_table(records)), (MEMORY, memory_table(records))):
        mark, end = _MARK.format(name), _END.format(name)
        before, start, rest = text.partition(mark)
        _, stop, after = rest.partition(end)
        if not (start and stop):
            raise ValueError(f"the document lacks the lines '{mark}' and '{end}'; put them back")
        text = "\n".join([before + mark, "", *lines, "", end + after])
    return text


def main(arguments: Sequence[str] | None = None) -> None:
    """Compile the cases, one after the other, each written when done."""
    parser = Parser(prog="python -m stts_jax.fit.kernels", description=__doc__)
    parser.add_argument("--only", default="", help="cases whose names contain this text")
    parser.add_argument("--chips", nargs="+", metavar="CHIP", help="such as v5e (default all)")
    options = parser.parse_args(arguments)
    known = {name.partition(":")[0] for case in CASES for name in case.topologies}
    if unknown := set(options.chips or ()) - known:
        raise ConfigError(
            f"--chips names {', '.join(sorted(unknown))}; use some of {', '.join(sorted(known))}"
        )
    for case in CASES:
        for topology in case.topologies:
            chip = topology.partition(":")[0]
            if options.only in case.name and chip in (options.chips or known):
                for record in compile_case(case, topology):
                    print(json.dumps(asdict(record)), flush=True)
                    write_records([record])
    DOCUMENT.write_text(document_with(DOCUMENT.read_text(), read_records()))


if __name__ == "__main__":
    sys.exit(run("fit.kernels", main))
