"""Rows of Parquet and Arrow files, and of folders that Hugging Face's `datasets` writes.

    file.parquet, file.arrow, file.feather
    FOLDER            with `data/train-00000-of-00002.parquet`, as downloaded from the hub
    FOLDER            with `state.json` and `.arrow` files, as `save_to_disk` writes it
    FOLDER/SPLIT      of either, where there are several splits

A row is an object like a line's. Bytes of a picture or video, which are a pair of `bytes` and
`path` in such tables, become a data URI.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stts_jax.data.datasets.regular_file import require_regular_file
from stts_jax.data.sources.checked_fields import OwnDataError

PARQUET, ARROW = (".parquet", ".pq"), (".arrow", ".feather", ".ipc")
# Rows that are Python objects at a time; those of pictures are large.
ROWS_AT_ONCE = 64
# Rows; and how many are still to skip after them.
_Rows = Generator[dict[str, Any], None, int]
_SHARD = re.compile(r"(?P<split>.+?)-\d{5}-of-\d{5}(-[0-9a-f]+)?")
_STARTS = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG", "image/png"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
    (b"\x1a\x45\xdf\xa3", "video/webm"),
)
_PICTURE_BRANDS = (b"avif", b"avis", b"heic", b"mif1")


@dataclass(frozen=True)
class Tables:
    """Files of rows.

    Attributes:
      path: as it was named.
      folder: that paths in rows are relative to.
      files: in order.
      kind: of all of them.
    """

    path: Path
    folder: Path
    files: tuple[Path, ...]
    kind: Literal["parquet", "arrow"]

    def rows(self, skip: int = 0) -> Iterator[dict[str, Any]]:
        """The rows of all files, a few in memory at a time.

        Args:
          skip: the first of them.

        Raises:
          OwnDataError: if a file is damaged.
        """
        read = _parquet_rows if self.kind == "parquet" else _arrow_rows
        for file in self.files:
            try:
                skip = yield from read(file, skip)
            except (ValueError, OSError) as error:  # all that pyarrow raises for a damaged file
                raise OwnDataError(
                    f"'{file}' cannot be read as {self.kind}: {str(error)[:200]}; download it again"
                ) from error
            except OverflowError as error:
                raise OwnDataError(
                    f"'{file}' holds a time that is too far from now to be read ({error}); leave "
                    "that column out"
                ) from error


def tables_at(path: Path) -> Tables | None:
    """Returns the tables that a path names; None for a file of JSON.

    Raises:
      OwnDataError: if it is a folder without tables, or with several splits.
    """
    ending = path.suffix.lower()
    if ending in (*PARQUET, *ARROW) and not path.is_dir():
        require_regular_file(path, "a table", OwnDataError)
        return Tables(path, path.parent, (path,), "parquet" if ending in PARQUET else "arrow")
    if path.is_dir():
        return _in_folder(path, None)
    if not path.exists() and path.parent.is_dir():
        return _in_folder(path.parent, path.name)
    return None


def _in_folder(folder: Path, split: str | None) -> Tables | None:
    path = folder if split is None else folder / split
    if (folder / "state.json").is_file() and split is None:
        return Tables(path, folder, _saved_files(folder), "arrow")
    by_split: dict[str, list[Path]] = {}
    for found in sorted([*folder.glob("*.parquet"), *folder.glob("data/*.parquet")]):
        shard = _SHARD.fullmatch(found.stem)
        by_split.setdefault(shard["split"] if shard else found.stem, []).append(found)
    saved = sorted(found.parent.name for found in folder.glob("*/state.json"))
    splits = [*by_split, *saved]
    if split is not None:
        files = by_split.get(split)
        return Tables(path, folder, tuple(files), "parquet") if files else None
    if len(splits) > 1:
        raise OwnDataError(
            f"'{folder}' holds the splits {', '.join(splits)}; name one: '{folder / splits[0]}'"
        )
    if not splits:
        raise OwnDataError(
            f"'{folder}' is a folder without data/*.parquet, *.parquet or state.json; give the "
            "path of a .jsonl file, of a table, or of a folder with tables"
        )
    if saved:
        return _in_folder(folder / saved[0], None)
    return Tables(path, folder, tuple(by_split[splits[0]]), "parquet")


def _saved_files(folder: Path) -> tuple[Path, ...]:
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        names = [str(entry["filename"]) for entry in state["_data_files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise OwnDataError(
            f"'{folder / 'state.json'}' does not name the folder's files; save the dataset again"
        ) from error
    for name in names:
        if Path(name).name != name:
            raise OwnDataError(
                f"'{folder / 'state.json'}' names '{name}', which is not a file of its folder; "
                "save the dataset again"
            )
        require_regular_file(folder / name, "a table", OwnDataError)
    return tuple(folder / name for name in names)


def _parquet_rows(path: Path, skip: int) -> _Rows:
    from pyarrow import parquet  # imported where it is used, as it is large

    with parquet.ParquetFile(path, memory_map=True) as file:
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            if skip >= count:
                skip -= count
                continue
            for batch in file.iter_batches(ROWS_AT_ONCE, row_groups=[group]):
                skip = yield from _rows_of(batch, skip)
    return skip


def _arrow_rows(path: Path, skip: int) -> _Rows:
    # `datasets` saves streams; files have a table of contents.
    import pyarrow
    from pyarrow import ipc

    with pyarrow.memory_map(str(path)) as source:
        try:
            reader = ipc.open_stream(source)
            batches = iter(reader)
        except pyarrow.ArrowInvalid:
            source.seek(0)
            opened = ipc.open_file(source)
            batches = (opened.get_batch(n) for n in range(opened.num_record_batches))
        for batch in batches:
            batch.validate(full=True)
            skip = yield from _rows_of(batch, skip)
    return skip


def _rows_of(batch: Any, skip: int) -> _Rows:
    first = min(skip, batch.num_rows)
    for start in range(first, batch.num_rows, ROWS_AT_ONCE):
        for row in batch.slice(start, ROWS_AT_ONCE).to_pylist():
            yield {name: with_uris(value) for name, value in row.items() if value is not None}
    return skip - first


def with_uris(value: Any) -> Any:
    """Returns a value with bytes, and pairs of bytes and path, as data URIs or paths."""
    if isinstance(value, dict):
        if value.keys() == {"bytes", "path"}:
            content = value["bytes"]
            return value["path"] if content is None else data_uri(content)
        return {name: with_uris(part) for name, part in value.items()}
    if isinstance(value, list):
        return [with_uris(part) for part in value]
    return data_uri(value) if isinstance(value, bytes) else value


def data_uri(content: bytes) -> str:
    """Returns a data URI of the content of a picture or video, whose kind its start tells."""
    return f"data:{_kind(content)};base64,{base64.b64encode(content).decode()}"


def _kind(content: bytes) -> str:
    for start, kind in _STARTS:
        if content.startswith(start):
            return kind
    if content[:4] == b"RIFF":
        return "image/webp" if content[8:12] == b"WEBP" else "video/avi"
    if content[4:8] == b"ftyp":
        return "image/avif" if content[8:12] in _PICTURE_BRANDS else "video/mp4"
    return "application/octet-stream"
