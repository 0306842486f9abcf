"""What the tests of commands share."""

from __future__ import annotations

import pytest

FRAMES, TOKENS_PER_FRAME = 4, 4


def refused(capsys: pytest.CaptureFixture[str], code: int) -> str:
    """The one sentence that a command refuses with."""
    printed = capsys.readouterr()
    assert code == 2
    assert printed.out == ""
    assert printed.err.count("\n") == 1 and "Traceback" not in printed.err
    return printed.err
