"""Our kernels, splash and cuDNN, compiled for the chips they are for, forward and backward.

Nothing runs, the compilers say what it would take. Each backend is asked for by name, so one that
does not support the case raises, and no other takes its place. The cases are those of the tables in
docs/performance.md, most of the 4B's sizes with 384 frames at 50 %.
"""

from __future__ import annotations

import math

import pytest
from test_fit_kernels import check_memory
from topologies_here import topology_or_skip

from stts_jax.fit.kernel_cases import CASES, Case
from stts_jax.fit.kernels import Record, compile_case, read_records

pytestmark = [pytest.mark.slow, pytest.mark.compilers]
# Of a TPU's matrix units: as many multiplications with their additions as they have places.
FLOPS_A_CYCLE = {"v5e": 2**17, "v6e": 2**19, "v5p": 2**18}
# How much longer than that the way to attention and back may take; a v6e waits for its memory.
TIMES_THE_PRODUCTS = {"v5e": 2, "v6e": 3, "v5p": 2}
PUBLISHED = {(own.case, own.way, own.chip): own for own in read_records()}


def compiled(case: Case, topology: str) -> list[Record]:
    topology_or_skip(topology)
    return compile_case(case, topology)


def check_cycles(case: Case, own: Record, report_error) -> None:
    """Heads are laid nowhere anew: that took five times what the projections' products do."""
    (_, places, inner), ways = case.shapes[0], {"forward": 1, "gradient": 3}
    products = ways[own.way] * 8 * places * inner**2
    most = TIMES_THE_PRODUCTS[own.chip] * products / FLOPS_A_CYCLE[own.chip]
    assert own.cycles is not None
    report_error(f"million cycles, {own.case}, {own.chip}, {own.way}", own.cycles / 1e6, most / 1e6)
    assert own.cycles < most


@pytest.mark.parametrize(
    ("case", "topology"),
    [
        pytest.param(case, topology, id=f"{topology} {case.name}")
        for case in CASES
        for topology in case.topologies
    ],
)
def test_a_way_compiles_within_its_limits_and_to_what_is_published(case, topology, report_error):
    """Spilled registers are an error of the GPU's compiler; see `NO_SPILLS`."""
    for own in compiled(case, topology):
        check_memory(own, report_error)
        if case.between and case.name.startswith("`stream_tpu`"):
            check_cycles(case, own, report_error)
        known = PUBLISHED[own.case, own.way, own.chip]
        assert own.compiler != known.compiler or math.isclose(
            own.temporary, known.temporary, rel_tol=0.02
        )
