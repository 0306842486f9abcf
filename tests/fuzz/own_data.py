"""Changed tables, and changed indexes of users' own data."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pyarrow
from pyarrow import ipc, parquet

from fuzz.changes import change_bytes
from fuzz.registry import Note, target
from stts_jax.data.bad_examples import READING_ERRORS
from stts_jax.data.sources import index_building, indexed_lines
from stts_jax.data.sources.own_data import OwnData, read_own_data

ROWS = [
    {
        "messages": [
            {"role": "user", "content": [{"type": "image", "text": None},
                                         {"type": "text", "text": f"{number}?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "a"}]},
        ],
        "images": [{"bytes": bytes(range(60)), "path": None}],
    }
    for number in range(6)
]  # fmt: skip
LINES = [{"video": f"{n % 3}.mp4", "question": f"{n}", "answer": "a"} for n in range(20)]


@target("a table of own data", READING_ERRORS, 60)
def changed_table(folder: Path, rng: Random, note: Note) -> None:
    table, kind = pyarrow.Table.from_pylist(ROWS), rng.choice(("parquet", "stream", "file"))
    path = folder / ("my.parquet" if kind == "parquet" else "my.arrow")
    if kind == "parquet":
        parquet.write_table(table, path, 2)
    else:
        make = ipc.new_stream if kind == "stream" else ipc.new_file
        with make(path, table.schema) as writer:
            writer.write_table(table, 2)
    note(f"{kind}: {change_bytes(path, rng)}")
    read_own_data(path)


@target("an index of own data", READING_ERRORS, 40)
def changed_index(folder: Path, rng: Random, note: Note) -> None:
    saved_from = index_building.SAVED_FROM
    path = folder / "my.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    index_building.SAVED_FROM = indexed_lines.SAVED_FROM = 1
    try:
        whole = list(OwnData(path).records)
        note(change_bytes(folder / "my.jsonl.index", rng))
        assert list(OwnData(path).records) == whole
    finally:
        index_building.SAVED_FROM = indexed_lines.SAVED_FROM = saved_from
