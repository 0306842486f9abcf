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

from goldens_folder import REPOSITORY, SHARED

from stts_jax.data.tokenizer import Tokenizer

FULL = SHARED / "tokenizer" / "tokenizer.json"
REDUCED = REPOSITORY / "tests" / "goldens_data" / "qwen3_tokenizer.json.gz"
VOCAB_SIZE = 151936  # rows of Qwen3's embedding
_FOLDERS: list[tempfile.TemporaryDirectory] = []  # removed when Python ends


@functools.cache
def qwen3_tokenizer() -> Tokenizer:
    """Qwen3's tokenizer with the visual tokens from 151936 upwards."""
    return Tokenizer.load(str(qwen3_tokenizer_path()), VOCAB_SIZE)


def qwen3_tokenizer_path() -> Path:
    """A `tokenizer.json` of Qwen3."""
    return FULL if FULL.is_file() else reduced_tokenizer_path()


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
