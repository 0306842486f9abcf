"""Tables as lines of JSON, which are written once, so that any row can be read again at once.

Parquet has to be decoded a thousand rows at a time. The lines are beside the table or in the user's
cache, as indexes are; they are written again where the tables have changed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from stts_jax.data.sources.checked_fields import OwnDataError
from stts_jax.data.sources.index_files import content_hash, files_for, locked
from stts_jax.data.sources.line_index import Signature
from stts_jax.data.sources.tables import Tables

logger = logging.getLogger(__name__)

# Bytes between two savings of the work.
SAVED_EVERY = 16 << 20


def lines_of(tables: Tables) -> Path:
    """Returns the file of the lines of tables, which is written if need be.

    Raises:
      OwnDataError: if a table is damaged, or the lines can't be written anywhere.
    """
    paths = files_for(tables.path, "lines")
    for lines_path in paths:
        if _is_of(lines_path, tables):
            return lines_path
    reason = ""
    for lines_path in paths:
        try:
            return _written_once(tables, lines_path)
        except OSError as error:
            reason = error.strerror or str(error)
    raise OwnDataError(
        f"the rows of '{tables.path}' can be written neither beside it nor in "
        f"'{paths[-1].parent}' ({reason}); make room, or set XDG_CACHE_HOME"
    )


def _note(lines_path: Path) -> Path:
    """The file that says what lines are of."""
    return lines_path.with_name(f"{lines_path.name}.json")


def _is_of(lines_path: Path, tables: Tables) -> bool:
    try:
        noted = json.loads(_note(lines_path).read_text())
        if lines_path.stat().st_size != noted["size"]:
            return False
        if noted["signatures"] == _signatures(tables):
            return True
        if noted["contents"] != _contents(tables):
            return False
    except (OSError, ValueError, KeyError, TypeError):
        return False
    with contextlib.suppress(OSError):  # another user's: compared at every start
        _write_note(lines_path, tables, noted["contents"])
    return True


def _signatures(tables: Tables) -> list[list[Any]]:
    return [[file.name, *dataclasses.astuple(Signature.of(file.stat()))] for file in tables.files]


def _contents(tables: Tables) -> list[list[str]]:
    return [[file.name, content_hash(file)] for file in tables.files]


def _write_note(lines_path: Path, tables: Tables, contents: list[list[str]]) -> None:
    values = {
        "size": lines_path.stat().st_size,
        "signatures": _signatures(tables),
        "contents": contents,
    }
    draft = _note(lines_path).with_suffix(f".{os.getpid()}")
    draft.write_text(json.dumps(values))
    draft.replace(_note(lines_path))


def _written_once(tables: Tables, lines_path: Path) -> Path:
    lines_path.parent.mkdir(parents=True, exist_ok=True)
    folder = lines_path.with_name(f"{lines_path.name}.work")
    with locked(folder, tables.path):
        if not _is_of(lines_path, tables):
            logger.info("writing the rows of '%s' to '%s'", tables.path, lines_path)
            try:
                _write(tables, folder, lines_path)
            except (OSError, OwnDataError):
                shutil.rmtree(folder, ignore_errors=True)
                raise
        shutil.rmtree(folder, ignore_errors=True)
    return lines_path


def _write(tables: Tables, folder: Path, lines_path: Path) -> None:
    before = json.dumps(_signatures(tables))
    progress, draft = folder / "progress.json", folder / "lines"
    rows, size = _progress(progress, draft, before)
    with draft.open("r+b" if draft.exists() else "w+b") as file:
        file.truncate(size)
        file.seek(size)
        saved = size
        for row in tables.rows(skip=rows):
            size += file.write(json.dumps(row, ensure_ascii=False, default=str).encode() + b"\n")
            rows += 1
            if size - saved >= SAVED_EVERY:
                file.flush()
                os.fsync(file.fileno())
                saved = size
                progress.write_text(json.dumps([before, rows, size]))
        file.flush()
        os.fsync(file.fileno())
    contents = _contents(tables)
    if json.dumps(_signatures(tables)) != before:
        raise OwnDataError(f"'{tables.path}' was written while it was read; start again")
    draft.replace(lines_path)
    _write_note(lines_path, tables, contents)


def _progress(progress: Path, draft: Path, signatures: str) -> tuple[int, int]:
    """Rows and bytes that an earlier process has written of the same tables."""
    try:
        before, rows, size = json.loads(progress.read_text())
        if before == signatures and draft.stat().st_size >= size:
            return int(rows), int(size)
    except (OSError, ValueError, TypeError):
        pass
    return 0, 0
