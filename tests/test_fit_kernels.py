"""The tables of compiled kernels are of nothing but their files, and these are within limits."""

from __future__ import annotations

import dataclasses

import pytest

from stts_jax.config import ConfigError
from stts_jax.fit import kernels
from stts_jax.fit.hardware import CHIPS
from stts_jax.fit.kernel_cases import CASES, TOKENS, Case
from stts_jax.fit.kernels import PASSES, Record

MIB = 2**20
RECORDS = kernels.read_records()
CASE = CASES[0]


def record(**changes) -> Record:
    new = Record(CASE.name, "forward", "v5e", "libtpu 1, jax 2", 3.0, 4 * MIB, 5_000_000)
    return dataclasses.replace(new, **changes)


def test_the_document_has_the_tables_of_the_files():
    text = kernels.DOCUMENT.read_text()
    assert text == kernels.document_with(text, RECORDS)


def test_a_document_without_a_place_for_a_table_is_named():
    with pytest.raises(ValueError, match="the document lacks the lines '<!-- cycles"):
        kernels.document_with("no table", RECORDS)


def test_each_case_is_published_for_each_of_its_chips():
    wanted = {
        (case.name, way, topology.partition(":")[0])
        for case in CASES
        for topology in case.topologies
        for way in PASSES
    }
    assert wanted == {(own.case, own.way, own.chip) for own in RECORDS}
    assert len({case.name for case in CASES}) == len(CASES)
    assert {own.chip for own in RECORDS} <= {chip.name for chip in CHIPS.values()}


def test_a_program_that_is_made_again_takes_the_place_of_its_record(tmp_path):
    gradient = record(way="gradient", temporary=7)
    kernels.write_records([gradient, record()], tmp_path)
    kernels.write_records([record(seconds=4.0), record(chip="v6e")], tmp_path)
    assert kernels.read_records(tmp_path) == [
        record(seconds=4.0),
        gradient,
        record(chip="v6e"),
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["v5e.jsonl", "v6e.jsonl"]


def test_a_table_has_a_line_for_each_case_and_a_column_for_each_chip():
    found = [record(), record(way="gradient", temporary=300 * MIB), record(chip="v6e")]
    head, _, line = kernels.memory_table(found)
    assert head.endswith("| v5e | v6e |")
    assert line == f"| {CASE.name} | 4.0, 300 | 4.0 |"
    assert kernels.cycles_table(found)[2] == f"| {CASE.name} | 5.0, 5.0 | 5.0 |"


def test_an_unknown_chip_is_named_with_those_there_are():
    with pytest.raises(ConfigError, match="--chips names v9; use some of h100, v5e, v5p, v6e"):
        kernels.main(["--chips", "v5e", "v9"])


# -------------------------------------------------------------------------- what a kernel may take

# Bytes put aside, forward and with gradients, as multiples of the queries' (or of what enters the
# projections), and behind them the most that was measured. There is no room for a byte of each pair
# of places; another form, which may put aside little too, can't come in by itself.
LIMITS = {
    ("`stream_tpu` between", ""): (4, 8),  # 3.1, 7.0
    ("`stream_tpu`, ", "16 heads"): (3.5, 5.5),  # 3.1, 5.1
    # Tiles in memory have 128 lanes: of two heads 256 with 144 in them, of one 128 with 72.
    ("`stream_tpu`, ", "2 heads"): (8, 15),  # 7.1, 14.2
    ("`stream_tpu`, ", "1 head "): (8, 15),
    ("`flash_tpu`, ", "LLM"): (2.5, 5),  # 2.3, 4.3
    ("`stream_gpu`, ", ""): (0.1, 1.5),  # 0.03, 1.1
    ("`flash_gpu`, ", ""): (0.1, 1.5),  # 0.03, 1.1
}


def limit(case: Case, way: str) -> float | None:
    """Bytes that a program of a case may put aside; None for kernels that aren't ours."""
    first = case.arrays[0]
    for (start, part), times in LIMITS.items():
        if case.name.startswith(start) and part in case.name:
            return times[PASSES.index(way)] * first.size * first.dtype.itemsize
    return None


def check_memory(own: Record, report_error) -> None:
    """What is put aside is within its limit, if there is one."""
    (case,) = (case for case in CASES if case.name == own.case)
    if (most := limit(case, own.way)) is not None:
        report_error(f"MiB, {own.case}, {own.chip}, {own.way}", own.temporary / MIB, most / MIB)
        assert own.temporary < most


@pytest.mark.parametrize("own", RECORDS, ids=lambda own: f"{own.chip} {own.way} {own.case}")
def test_what_is_published_is_within_its_limit(own, report_error):
    check_memory(own, report_error)


@pytest.mark.parametrize("way", PASSES)
def test_the_plain_form_is_not_within_the_limits_of_the_masks_kernels(way):
    plain = [own for own in RECORDS if own.case.startswith("`xla`") and own.way == way]
    kernels_of = [case for case in CASES if case.name.startswith("`flash_") and "LLM" in case.name]
    assert len(plain) == len(kernels_of) == 2
    for own in plain:
        assert all(own.temporary > limit(case, way) for case in kernels_of)


def test_no_limit_leaves_room_for_a_byte_of_each_pair_of_tokens():
    for case in CASES:
        found = [own for own in RECORDS if own.case == case.name and "LLM" in case.name]
        for own in found:
            most = limit(case, own.way)
            assert most is None or own.temporary + TOKENS**2 > most
