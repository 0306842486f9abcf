"""What `make smoke` runs is there, whatever tests are renamed."""

import re

import pytest
from goldens_folder import REPOSITORY

SMOKE = re.search(r"^SMOKE := ((?:.*\\\n)*.*)", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
NAMED = SMOKE[1].replace("\\\n", " ").split()


@pytest.mark.parametrize("name", NAMED)
def test_a_test_that_make_smoke_names_is_there(name):
    file, _, test = name.partition("::")
    assert f"def {test or 'test_'}" in (REPOSITORY / file).read_text()


def test_every_part_has_one():
    parts = ("config", "data", "attention", "prun", "model", "training", "evaluation", "convert")
    assert [part for part in parts if not any(part in name for name in NAMED)] == []
