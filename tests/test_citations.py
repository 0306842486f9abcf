"""Every source that code names is a file of the reference, the paper, or an anchor that exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from goldens_folder import REPOSITORY

REFERENCE = REPOSITORY / "docs" / "reference.md"
CITED = re.compile(r"docs/reference\.md((?:(?: and )?#[a-z0-9-]+)+)")
# Specifications that are no part of the repository, by the form in which they were cited.
ABSENT = re.compile(r"\b(?:MODEL|DATA|PEERS|FIELD|ANCHORS) \d")


def anchors(page: str) -> set[str]:
    """Returns the anchors that GitHub makes of a page's headings."""
    titles = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def texts() -> dict[str, str]:
    """Returns the files that may cite, by name."""
    rooms = ("stts_jax", "convert", "configs", "tests", "docs")
    found = [path for room in rooms for path in (REPOSITORY / room).rglob("*.*")]
    paths = [path for path in found if path.name != Path(__file__).name]
    kinds = (".py", ".toml", ".md")
    return {
        str(p.relative_to(REPOSITORY)): p.read_text("utf-8") for p in paths if p.suffix in kinds
    }


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    return texts()


def cited_anchors(text: str) -> set[str]:
    return {a for found in CITED.findall(text) for a in re.findall(r"#([a-z0-9-]+)", found)}


def test_every_cited_anchor_of_the_reference_page_exists(files):
    known = anchors(REFERENCE.read_text("utf-8"))
    missing = {name: cited_anchors(text) - known for name, text in files.items()}
    assert not {name: found for name, found in missing.items() if found}
    assert sum(bool(cited_anchors(text)) for text in files.values()) > 30


def test_no_document_outside_of_the_repository_is_cited(files):
    assert not [name for name, text in files.items() if ABSENT.search(text)]


def test_an_anchor_that_is_not_there_is_noticed():
    assert cited_anchors("see docs/reference.md#chat and #no-such-thing.") == {
        "chat",
        "no-such-thing",
    }
    assert anchors("## Style tags\n### Hugging Face's configuration") == {
        "style-tags",
        "hugging-faces-configuration",
    }
