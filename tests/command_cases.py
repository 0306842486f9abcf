"""What the tests of commands share."""

from __future__ import annotations

import re

import pytest

FRAMES, TOKENS_PER_FRAME = 4, 4


# What is being done, and how long it took: `stts_jax.terminal.doing`.
_PROGRESS = re.compile(r"(?m)^(?:memory: .*|.*(?: \.\.\.|: \d+\.\d s|: \d+ s so far))\n")


def without_progress(printed: str) -> str:
    """Returns what a command prints, without the lines that tell what is being done."""
    return _PROGRESS.sub("", printed)


def refused(capsys: pytest.CaptureFixture[str], code: int) -> str:
    """The one sentence that a command refuses with."""
    printed = capsys.readouterr()
    assert code == 2
    assert without_progress(printed.out) == ""
    said = without_progress(printed.err)
    assert said.count("\n") == 1 and "Traceback" not in said
    return said
