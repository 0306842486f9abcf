"""Some hundreds of random changes to users' files, each of which ends in one sentence or well."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz.registry import Target, fault
from fuzz.targets import TARGETS


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_random_changes_end_well_or_in_one_sentence(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = [fault(target, seed, tmp_path / "trial") for seed in range(target.quick)]
    assert not any(found), "\n\n".join(filter(None, found))
