"""Converted folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from convert_cases import SCORED, write_hf

from convert.__main__ import main

INDEX = "model.safetensors.index.json"
FIRST = "model-00001-of-00002.safetensors"


def same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> bool:
    return found.keys() == wanted.keys() and all(
        np.array_equal(found[name], wanted[name]) for name in wanted
    )


def converted(tmp_path: Path, config=SCORED, *flags: str) -> Path:
    source = write_hf(tmp_path / "hf", config)
    assert main([str(source), str(tmp_path / "ours"), *flags]) == 0
    return tmp_path / "ours"


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The one message of a conversion that must not go through; nothing may be left behind."""
    assert main([str(argument) for argument in arguments]) == 2
    return capsys.readouterr().err
