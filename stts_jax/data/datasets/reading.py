"""Annotation files in the forms that they are published in; a wrong one is named in one sentence.

Text is UTF-8, with or without a byte order mark. Cells of a CSV file are text as written: where
pandas makes an empty cell, "None" or "NA" a missing number, the word is kept here.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stts_jax.buckets.address import is_bucket
from stts_jax.data.datasets.base import DatasetError
from stts_jax.data.datasets.looked_at import is_file, note, note_below
from stts_jax.data.datasets.regular_file import require_regular_file

Row = dict[str, Any]


def read_text(path: Path) -> str:
    """The whole file.

    Raises:
      DatasetError: if it is missing or not UTF-8, as in all functions here.
    """
    require_regular_file(path, "a file", DatasetError)
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(f"'{path}' is not UTF-8 text; download it again") from error


def read_lines(path: Path) -> list[str]:
    """The lines that are not blank, without white space at their ends."""
    return [line.strip() for line in read_text(path).split("\n") if line.strip()]


def read_json(path: Path) -> Any:
    """A JSON file; DatasetError if it is damaged."""
    text = read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise _damaged(path, f"line {error.lineno} is not valid JSON") from error
    except (ValueError, RecursionError) as error:  # numbers of too many digits, deep nesting
        raise _damaged(path, "it is not valid JSON") from error


def read_json_rows(path: Path, columns: Sequence[str] = ()) -> list[Row]:
    """The records of a JSON file that holds a list of objects, or an object of columns.

    The second form is what pandas writes: `{column: {row: value}}`.

    Args:
      path: the file.
      columns: fields that every record must have.
    """
    content = read_json(path)
    if isinstance(content, dict):
        content = _rows_of_columns(path, content)
    if not isinstance(content, list):
        raise _damaged(path, "it is not a list of records")
    return _with_columns(path, content, columns)


def read_json_lines(path: Path, columns: Sequence[str] = ()) -> list[Row]:
    """The records of a file with a JSON object on each line; `columns` as in `read_json_rows`."""
    return _with_columns(path, _values_of_lines(path), columns)


def read_json_lines_below_header(path: Path, columns: Sequence[str]) -> list[Row]:
    """The same of a file with a JSON list on each line, the first of which names the columns."""
    lines = _values_of_lines(path)
    if not lines or not all(isinstance(line, list) for line in lines):
        raise _damaged(path, "its lines are not lists below a list of column names")
    names = lines[0]
    rows = [dict(zip(names, line, strict=False)) for line in lines[1:]]
    return _with_columns(path, rows, columns)


def read_csv(path: Path, columns: Sequence[str], delimiter: str = ",") -> list[dict[str, str]]:
    """The rows of a table with a header; missing cells at the end of a row are empty.

    Args:
      path: the file.
      columns: names that the header must have.
      delimiter: between cells.
    """
    lines = _csv_rows(path, delimiter)
    header = next(lines, [])
    _check_columns(path, header, columns)
    rows = []
    for number, cells in enumerate(lines, start=1):
        if len(cells) > len(header):
            raise _damaged(path, f"row {number} has {len(cells)} cells, the header {len(header)}")
        cells += [""] * (len(header) - len(cells))
        rows.append(dict(zip(header, cells, strict=True)))
    return rows


def read_csv_without_header(path: Path, width: int) -> list[list[str]]:
    """The rows of a table without a header, each of at least `width` cells."""
    rows = list(_csv_rows(path, ","))
    for number, cells in enumerate(rows, start=1):
        if len(cells) < width:
            raise _damaged(path, f"row {number} has {len(cells)} cells instead of {width}")
    return rows


def read_parquet(path: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> list[Row]:
    """The named columns of a Parquet file, as rows of plain Python values.

    Args:
      path: the file.
      columns: that it must have.
      optional: columns to read as well if there are such.

    Raises:
      DatasetError: also if there is no such column.
    """
    with _table(path):
        from pyarrow import parquet  # imported where it is used, as it is large

        file = parquet.ParquetFile(path.open("rb") if is_bucket(path) else path)
        names = _check_columns(path, file.schema_arrow.names, columns, optional)
        return file.read(columns=names).to_pylist()


def read_arrow(path: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> list[Row]:
    """The same of an Arrow stream, the form in which Hugging Face's datasets saves its tables."""
    with _table(path):
        from pyarrow import ipc

        table = ipc.open_stream(path.read_bytes()).read_all()
        names = _check_columns(path, table.column_names, columns, optional)
        return table.select(names).to_pylist()


def read_hub_table(
    folder: Path, split: str, columns: Sequence[str], optional: Sequence[str] = ()
) -> list[Row]:
    """A split of a dataset of the Hugging Face hub, as saved to disk or as downloaded.

    Saved to disk is a folder with `state.json`, or one such folder for each split; downloaded is a
    folder with Parquet files `{split}-....parquet` in it or below.

    Args:
      folder: either.
      split: its name on the hub.
      columns: to read.
      optional: columns to read as well if there are such.
    """
    for saved in (folder / split, folder):
        if is_file(saved / "state.json"):
            files = [entry["filename"] for entry in read_json(saved / "state.json")["_data_files"]]
            return [row for name in files for row in read_arrow(saved / name, columns, optional)]
    note_below(folder, (path for path in folder.rglob("*") if path.is_dir()))
    shards = sorted(folder.glob(f"**/{split}-*.parquet"))
    if not shards:
        raise DatasetError(
            f"'{folder}' holds no split '{split}', neither saved to disk (state.json) nor as "
            f"downloaded ({split}-*.parquet)"
        )
    return [row for shard in shards for row in read_parquet(shard, columns, optional)]


def list_files(folder: Path, *, below: bool = False) -> frozenset[str]:
    """Names of the files in a folder; with `below` of all folders in it, relative to it.

    Raises:
      DatasetError: if there is no such folder.
    """
    if not folder.is_dir():
        raise DatasetError(f"the folder '{folder}' does not exist")
    note(folder)
    if not below:
        return frozenset(entry.name for entry in folder.iterdir())
    files: list[str] = []
    for path in folder.rglob("*"):
        if path.is_file():
            files.append(path.relative_to(folder).as_posix())
        else:
            note(path)
    return frozenset(files)


def whole_number(value: Any) -> int:
    """Returns the integer of a number or text ("2", 2.0), for indices read from a table.

    Raises:
      DatasetError: if it is not one.
    """
    try:
        number = int(value) if isinstance(value, int) else float(value)
        if number == int(number):
            return int(number)
    except (TypeError, ValueError, OverflowError):
        pass
    raise DatasetError(f"{value!r} stands where an annotation file should have a whole number")


def truth(value: Any) -> bool:
    """Returns the bool that a cell "True" or "False" says; DatasetError if it says neither."""
    words = {"true": True, "1": True, "false": False, "0": False}
    word = str(value).strip().lower()
    if word not in words:
        raise DatasetError(f"{value!r} stands where an annotation file should have True or False")
    return words[word]


def _values_of_lines(path: Path) -> list[Any]:
    values = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            values.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise _damaged(path, f"line {number} is not valid JSON") from error
    return values


def _rows_of_columns(path: Path, columns: Mapping[str, Any]) -> list[Row]:
    if not all(isinstance(cells, dict) for cells in columns.values()):
        raise _damaged(path, "it is neither a list of records nor an object of columns")
    names = list(columns)
    keys = list(columns[names[0]]) if names else []
    return [{name: columns[name].get(key) for name in names} for key in keys]


def _csv_rows(path: Path, delimiter: str) -> Iterator[list[str]]:
    try:
        rows = list(csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter))
    except csv.Error as error:
        raise _damaged(path, f"it is not a table ({error})") from error
    return (cells for cells in rows if cells)


@contextmanager
def _table(path: Path) -> Iterator[None]:
    """Raises pyarrow's errors about a file as `DatasetError`."""
    require_regular_file(path, "a file", DatasetError)
    try:
        yield
    except DatasetError:
        raise
    except (ValueError, OSError) as error:  # all that pyarrow raises for a damaged file
        raise _damaged(path, f"it is not a table ({error})") from error


def _with_columns(path: Path, rows: list[Any], columns: Sequence[str]) -> list[Row]:
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise _damaged(path, f"record {number} is not an object")
        missing = [name for name in columns if name not in row]
        if missing:
            raise _damaged(path, f"record {number} has no field '{missing[0]}'")
    return rows


def _check_columns(
    path: Path, present: Sequence[str], wanted: Sequence[str], optional: Sequence[str] = ()
) -> list[str]:
    """The columns to read; DatasetError if one that is wanted is not there."""
    missing = [name for name in wanted if name not in present]
    if missing:
        has = ", ".join(present) or "none"
        raise _damaged(path, f"it has no column '{missing[0]}' (it has {has})")
    return [*wanted, *(name for name in optional if name in present)]


def _damaged(path: Path, what: str) -> DatasetError:
    return DatasetError(f"'{path}' has another form than expected: {what}; download it again")
