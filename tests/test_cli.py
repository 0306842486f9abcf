"""One command for all programs: what it runs, and what it says where there is nothing to run."""

from __future__ import annotations

import subprocess
import sys
import types

import pytest

from stts_jax import cli
from stts_jax.cli.commands import COMMANDS, Command

NAMES = {
    *(
        "train",
        "eval",
        "ask",
        "show",
        "calibrate",
        "convert",
        "data",
        "fit",
        "bench",
        "demo",
        "serve",
        "doctor",
    ),
}


@pytest.fixture(autouse=True)
def own_arguments(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["stts"])


def test_help_lists_every_subcommand_and_starts_no_jax():
    program = (
        "import sys; from stts_jax.cli import main; code = main(['--help']);"
        "assert 'jax' not in sys.modules and 'numpy' not in sys.modules; sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    listed = {line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")}
    assert listed == NAMES == {*COMMANDS}


@pytest.mark.parametrize(
    ("typed", "meant"), [("trian", "train"), ("evaluate", "eval"), ("docter", "doctor")]
)
def test_an_unknown_subcommand_is_one_sentence_with_the_nearest(typed, meant, capsys):
    assert cli.main([typed]) == 2
    said = capsys.readouterr().err
    assert f"subcommand '{typed}' is unknown; did you mean '{meant}'?" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_subcommand_finds_its_program(name, capsys, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    with pytest.raises(SystemExit) as ended:
        cli.main([name, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("usage: ")


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (3, 3)])
def test_the_exit_code_is_that_of_the_program(returned, code, monkeypatch):
    given = []
    program = types.SimpleNamespace(main=lambda words: given.append(words) or returned)
    monkeypatch.setitem(sys.modules, "a_program", program)
    monkeypatch.setitem(COMMANDS, "other", Command("", "a_program"))
    assert cli.main(["other", "x", "--y"]) == code
    assert given == [["x", "--y"]]


def test_a_script_of_the_clone_is_named_where_only_the_package_is(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(cli, "_CLONE", tmp_path)
    assert cli.main(["train"]) == 2
    assert "train.py comes with the clone" in capsys.readouterr().err
