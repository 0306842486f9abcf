"""The files of a tokenizer that go along with a converted model.

They are read when a checkpoint is opened, as whoever publishes the result publishes them: a link or
a path in a configuration must not bring any other file of this machine along.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from convert.tensor_reader import ConvertError, require_inside
from stts_jax.buckets.address import path_of
from stts_jax.data.text.tokenizer import CONFIG_FILE, TINY_FILE, TokenizerError, marks_beside
from stts_jax.data.text.tokenizer_file import MOST_BYTES, load_base
from stts_jax.plain_files import FileError, read_text, require_within
from stts_jax.quoting import shorten

TOKENIZER = "tokenizer.json"
Files = Mapping[str, str]  # texts by name


def tokenizer_in(folder: Path) -> Files | None:
    """Returns the tokenizer in a folder, with the file beside it that names its end token.

    Raises:
      ConvertError: if one of the two is a link out of the folder, or can't be used.
    """
    if not _is_there(folder / TOKENIZER):
        return None
    names = [name for name in (TOKENIZER, CONFIG_FILE) if _is_there(folder / name)]
    for name in names:
        require_inside(folder / name, folder)
    try:
        load_base(folder / TOKENIZER)
        marks_beside(folder / TOKENIZER)
        return {name: read_text(folder / name, MOST_BYTES) for name in names}
    except (FileError, TokenizerError) as error:
        raise ConvertError(
            f"{error}; download it again, or take it away to convert without a tokenizer"
        ) from error


def tokenizer_of_run(stated: str, folder: Path) -> tuple[Files | None, tuple[str, ...]]:
    """The tokenizer of one of our runs, and what a user should know about it.

    A run names its tokenizer by a path, which may be outside of its folder: such a file is
    copied only if it is a tokenizer, and of the file beside it only the tokens that it names.

    Args:
      stated: `data.tokenizer` of the run.
      folder: of the run.
    """
    if stated == "tiny":
        return {TOKENIZER: TINY_FILE.read_text()}, ()
    path = path_of(stated)
    if not _is_there(path):
        found = tokenizer_in(folder)
        note = f"its tokenizer {shorten(stated)} is not there; put a {TOKENIZER} beside the result"
        return found, () if found else (note,)
    try:
        require_within(path, folder)
    except FileError:
        return _outside(path)
    return tokenizer_in(path.parent), ()


def _outside(path: Path) -> tuple[Files | None, tuple[str, ...]]:
    try:
        load_base(path)
        files = {TOKENIZER: read_text(path, MOST_BYTES)}
        marks = marks_beside(path)
    except (FileError, TokenizerError) as error:
        note = f"its tokenizer is not copied ({error}); put a {TOKENIZER} beside the result"
        return None, (note,)
    if marks:
        named = {f"{name}_token": text for name, text in marks.items()}
        files[CONFIG_FILE] = json.dumps(named, indent=2) + "\n"
    return files, (f"its tokenizer {shorten(path)}, outside of its folder, is copied",)


def _is_there(path: Path) -> bool:
    try:
        return path.exists() or path.is_symlink()
    except (OSError, ValueError):
        return False
