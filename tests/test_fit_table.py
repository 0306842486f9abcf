"""The table of docs/fit.md: made row by row, resumed, and of nothing but its file."""

from __future__ import annotations

import subprocess

import pytest
from topologies_here import topology_or_skip

from stts_jax.budget import row_budget
from stts_jax.config import ConfigError
from stts_jax.fit import __main__ as command
from stts_jax.fit import table
from stts_jax.fit.hardware import CHIPS
from stts_jax.fit.setting import sized_config
from stts_jax.fit.table_rows import ONE_64, ROWS, V5E_16, Row


def fake_result(row):
    return {"topology": row.topology, "fits": True}


def test_rows_that_are_there_are_not_made_again(tmp_path):
    path, made = tmp_path / "fit.jsonl", []

    def make(row):
        made.append(row)
        if len(made) == 3:
            raise KeyboardInterrupt
        return fake_result(row)

    with pytest.raises(KeyboardInterrupt):
        table.make_missing(ROWS[:4], path, make)
    assert list(table.read_results(path)) == [row.key for row in ROWS[:2]]
    table.make_missing(ROWS[:4], path, make)
    assert list(table.read_results(path)) == [row.key for row in ROWS[:4]]
    assert made == [*ROWS[:3], *ROWS[2:4]]


def test_a_row_that_breaks_down_stays_in_the_table_with_its_error(tmp_path):
    path = tmp_path / "fit.jsonl"

    def make(row):
        return {"error": "XlaError: no | tiles"} if row is ROWS[1] else fake_result(row)

    assert table.make_missing(ROWS[:3], path, make) == [ROWS[1]]
    results = table.read_results(path)
    assert list(results) == [row.key for row in ROWS[:3]]
    header, _, line = table.table_lines(results, [ROWS[1]])
    assert "could not be compiled: XlaError: no / tiles" in line and ROWS[1].config in line
    assert line.count("|") == header.count("|")


@pytest.mark.parametrize(
    "code, printed, error",
    [
        (1, "Traceback:\n  f()\njax.errors.JaxRuntimeError: INTERNAL: bad\n\nsee", "INTERNAL: bad"),
        (-9, "", "killed by signal 9"),
        (3, "odd", "exit code 3"),
    ],
)
def test_the_error_of_a_row_is_that_of_its_process(code, printed, error, monkeypatch):
    done = subprocess.CompletedProcess([], code, "", printed)
    monkeypatch.setattr(table.subprocess, "run", lambda *_, **__: done)
    assert error in table.compile_row(ROWS[0])["error"]


def test_what_the_user_can_mend_stops_the_table(monkeypatch):
    done = subprocess.CompletedProcess([], 2, "", "a warning\nfit: install the extra [tpu]\n")
    monkeypatch.setattr(table.subprocess, "run", lambda *_, **__: done)
    with pytest.raises(ConfigError, match=r"install the extra \[tpu\]"):
        table.compile_row(ROWS[0])


def test_rows_of_other_code_are_made_again_on_request(tmp_path, monkeypatch):
    path = tmp_path / "fit.jsonl"
    table.make_missing(ROWS[:1], path, fake_result)
    monkeypatch.setattr(table, "code_fingerprint", lambda: "other")
    table.make_missing(ROWS[:1], path, fake_result)
    assert table.read_results(path)[ROWS[0].key]["code"] != "other"
    table.make_missing(ROWS[:1], path, fake_result, stale=True)
    assert table.read_results(path)[ROWS[0].key]["code"] == "other"


def test_the_document_has_the_table_of_the_file():
    lines = table.table_lines(table.read_results(table.RESULTS))
    text = table.DOCUMENT.read_text()
    assert text == table.document_with(text, lines)


def test_every_row_of_the_table_can_be_asked_for():
    assert len({row.key for row in ROWS}) == len(ROWS) >= 30
    for row in ROWS:
        options = command.parse(row.arguments)
        config = sized_config(options.config, options.frames, options.videos, options.overrides)
        row_budget(config.model, config.data)


def test_every_chip_of_the_table_has_its_rates():
    names = {chip.name for chip in CHIPS.values()}
    # One GPU of any kind, and a CPU, have none.
    assert {row.topology.split(":")[0] for row in ROWS} <= {*names, "gpu", "cpu"}


# ------------------------------------------------------------------------- the true compilers, slow

# Most training steps take minutes; planned for a TPU, half of one.
MADE_AGAIN = [row for row in ROWS if "--decode" in row.more] + [
    Row(V5E_16, "molmo2_4b_stts_50", ONE_64)
]


@pytest.mark.slow
@pytest.mark.compilers
@pytest.mark.parametrize("row", MADE_AGAIN, ids=lambda row: row.topology)
def test_a_row_is_made_with_the_true_compiler_and_is_as_published(row: Row):
    topology_or_skip(row.topology)
    found = table.compile_row(row)
    assert found["fits"]
    published = table.read_results(table.RESULTS)[row.key]
    assert found["memory"]["total"] == pytest.approx(published["memory"]["total"], rel=0.02)
    assert found["flops"] == published["flops"]
