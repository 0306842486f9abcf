"""Lists of the examples that can be used, where a part of the data is missing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from stts_jax.data.datasets.base import DatasetError
from stts_jax.data.datasets.regular_file import require_regular_file


class Selection(NamedTuple):
    """A dataset and one of its splits; of users' own data, the file and None."""

    dataset: str
    split: str | None


def write_usable(path: Path, usable: Mapping[Selection, Iterable[int]]) -> None:
    """Write a JSONL file, a line for each example: `{"dataset", "split", "index"}`."""
    with path.open("w", encoding="utf-8") as lines:
        for selection, indices in usable.items():
            for index in indices:
                lines.write(json.dumps({**selection._asdict(), "index": index}) + "\n")


def read_usable(path: Path) -> dict[Selection, list[int]]:
    """Read such a file: the indices of the examples of each dataset, in the order of the file.

    Raises:
      DatasetError: if it is missing or of another form.
    """
    require_regular_file(
        path, "a list that python -m stts_jax.data check --write-usable has made", DatasetError
    )
    usable: dict[Selection, list[int]] = {}
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                values = json.loads(line)
                selection = Selection(values["dataset"], values["split"])
                usable.setdefault(selection, []).append(int(values["index"]))
            except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
                raise DatasetError(
                    f"{path}:{number}: {line.strip()[:80]!r} does not name a dataset, a split and "
                    "an index; make the file again with python -m stts_jax.data check"
                ) from error
    return usable
