"""The commands of README.md and docs/ are of programs, options and settings that there are."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import doc_commands
import pytest
from doc_commands import PYTHON, blocks, commands, faults, main_of, programs
from goldens_folder import REPOSITORY

from stts_jax.data.__main__ import main as data

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
PROGRAMS = sorted({name for page in PAGES for name in programs(page.read_text())})


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """Some programs set variables for JAX when they are imported."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page_would_run(page):
    assert faults(page.read_text()) == []


def test_the_pages_have_commands_of_every_kind():
    of_python = [w for page in PAGES for w in commands(page.read_text()) if w[0] == PYTHON]
    assert len(of_python) > 50
    assert {"train.py", "eval.py", "convert", "stts_jax.ask", "stts_jax.fit"} <= set(PROGRAMS)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_that_a_page_names_has_help(program, capsys):
    with pytest.raises(SystemExit) as ended:
        main_of(program)(["--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("usage: ")


@pytest.mark.parametrize(
    ("page", "fault"),
    [
        ("```\npython train.py --output runs/a\n```", "write .venv/bin/python"),
        ("Run `python -m stts_jax.ask a.mp4 b --checkpoint c`.", "write .venv/bin/python"),
        ("```\npip install -e '.[cuda]'\n```", "write .venv/bin/pip"),
        ("```\nX=1 python train.py --output runs/a &\n```", "write .venv/bin/python"),
        ("\n\n    .venv/bin/python trane.py --output runs/a\n", "there is no trane.py"),
        ("`.venv/bin/python -m stts_jax.nothing`", "there is no stts_jax.nothing"),
        ("`.venv/bin/python train.py --output a --fast`", "its options are refused"),
        ("`.venv/bin/python train.py --config tiny`", "its options are refused"),
        ("`.venv/bin/python train.py --output a --config huge`", "no config named 'huge'"),
        ("```\n.venv/bin/python train.py --output a \\\n  --set train.step=1\n```", "train.step'"),
        ("`.venv/bin/python train.py --output a --set train.steps=0`", "set it above 0"),
        ("`.venv/bin/python eval.py --checkpoint runs/tiny --k 30 100`", "its options are refused"),
        (
            "`.venv/bin/python -m stts_jax.data check --file tests/absent.jsonl`",
            "there is no tests",
        ),
        ("`.venv/bin/python -m stts_jax.data look`", "its options are refused"),
        ("`.venv/bin/python -m pip install -e '.[gpu]'`", "no extra gpu"),
        ("`.venv/bin/python -m pip install stts-jax`", "install from the clone"),
        ("`.venv/bin/python -c 'import'`", "invalid syntax"),
        ("`make everything`", "no target everything"),
        ("`make demo QUICK=1`", "no variable QUICK"),
        ('```\nssh NAME --command "cd a && .venv/bin/python b.py"\n```', "there is no b.py"),
    ],
)
def test_a_command_that_would_not_run_is_a_fault(page, fault):
    (found,) = faults(page)
    assert fault in found


def test_what_is_no_command_is_no_fault():
    page = "<!-- python train.py -->\n```\nit's 5 of python's\n```\nSee `train.py` and `python`."
    assert faults(page) == []


def test_data_list_runs(capsys):
    assert data(["list"]) == 0
    assert "mvbench" in capsys.readouterr().out


def test_the_five_minutes_of_own_data_are_checked_as_the_page_shows(tmp_path, monkeypatch, capsys):
    made, check, printed = blocks(REPOSITORY / "docs" / "data.md")[:3]
    (tmp_path / "stts_jax").symlink_to(REPOSITORY / "stts_jax")
    monkeypatch.chdir(tmp_path)
    subprocess.run(["bash", "-e"], input=made, text=True, check=True)
    (command,) = doc_commands.commands(f"```\n{check}```")
    assert command[:3] == [PYTHON, "-m", "stts_jax.data"]
    assert data(command[3:]) == 0
    assert capsys.readouterr().out == printed
