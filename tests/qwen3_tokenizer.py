"""Qwen3's tokenizer for tests: the full one beside the repository, else the carried part of it.

The carried part is `tests/goldens_data/qwen3_tokenizer.json.gz`: a `tokenizer.json` with the
vocabulary entries and merges that the texts of the tests need, under their own ids. A merge that
is never applied to a text doesn't change its ids, so those texts get the ids of the full one.
"""

from __future__ import annotations

import functools
import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from goldens_folder import CARRIED_DATA, SHARED, goldens_data_dir

from stts_jax.data.text.tokenizer import Tokenizer

FULL = SHARED / "tokenizer" / "tokenizer.json"
REDUCED = CARRIED_DATA / "qwen3_tokenizer.json.gz"
VOCAB_SIZE = 151936  # rows of Qwen3's embedding
_FOLDERS: list[tempfile.TemporaryDirectory] = []  # removed when Python ends


def qwen3_tokenizer() -> Tokenizer:
    """Qwen3's tokenizer with the visual tokens from 151936 upwards."""
    return _with_visual_tokens(qwen3_tokenizer_path())


@functools.cache
def _with_visual_tokens(path: Path) -> Tokenizer:
    return Tokenizer.load(str(path), VOCAB_SIZE)


def qwen3_tokenizer_path() -> Path:
    """A `tokenizer.json` of Qwen3."""
    return FULL if FULL.is_file() else reduced_tokenizer_path()


def recorded_tokenizer() -> Tokenizer:
    """`qwen3_tokenizer` for the texts of the preprocessing cases in use."""
    return _with_visual_tokens(recorded_tokenizer_path())


def recorded_tokenizer_path() -> Path:
    """A `tokenizer.json` that holds what those texts need; skips the test without one.

    Other cases than the carried ones need the full tokenizer: beside the repository, or beside
    their own folder.
    """
    folder = goldens_data_dir()
    for full in (FULL, folder.parent / "tokenizer" / "tokenizer.json"):
        if full.is_file():
            return full
    if folder.resolve() != CARRIED_DATA.resolve():
        pytest.skip(f"needs {FULL}: the carried tokenizer was cut for the carried texts alone")
    return reduced_tokenizer_path()


def carried_cases(name: str) -> Any:
    """The content of a carried `name.json`, whichever folder of cases is in use."""
    return json.loads((CARRIED_DATA / f"{name}.json").read_text())


@functools.cache
def reduced_tokenizer_path() -> Path:
    """The carried part as a `tokenizer.json` in a temporary folder, gaps in its ids filled."""
    content = json.loads(gzip.decompress(REDUCED.read_bytes()))
    vocabulary = content["model"]["vocab"]
    held = set(vocabulary.values())
    first_added = min(token["id"] for token in content["added_tokens"])
    gaps = (i for i in range(first_added) if i not in held)
    vocabulary.update({f"|<NOT_CARRIED_{i}>|": i for i in gaps})
    _FOLDERS.append(tempfile.TemporaryDirectory(prefix="qwen3_tokenizer_"))
    path = Path(_FOLDERS[-1].name) / "tokenizer.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path
