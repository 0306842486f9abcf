"""The page on pruning a ViT of one's own is a program that does what the page says."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys

import pytest
from goldens_folder import REPOSITORY

PAGE = REPOSITORY / "docs" / "your_own_vit.md"


def program() -> str:
    return "\n\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL))


def imported_modules(source: str) -> set[str]:
    nodes = list(ast.walk(ast.parse(source)))
    plain = {alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names}
    return plain | {n.module for n in nodes if isinstance(n, ast.ImportFrom) and n.module}


def test_the_page_imports_no_model_of_ours():
    ours = {name for name in imported_modules(program()) if name.startswith("stts_jax")}
    assert ours == {"stts_jax.pruning", "stts_jax.data.scenes"}


def printed(source: str) -> str:
    """Returns what a program prints, run on its own."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", source]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_pages_program_runs():
    short = program().replace("VIDEOS = 200, 16, 128", "VIDEOS = 2, 2, 8")
    assert short != program()
    first, after = map(float, re.findall(r"(0\.\d+) (?:at first|after)", printed(short)))
    assert 0 < first < 1 and 0 < after < 1


@pytest.mark.slow
def test_the_pages_program_learns_to_drop_what_does_not_move():
    changed, still = map(int, re.findall(r"(\d+)%", printed(program())))
    assert changed >= 60 and changed >= 2 * still
