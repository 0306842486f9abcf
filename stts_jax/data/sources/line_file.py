"""A file of users' own data as it is read: what its path names, and what its lines refer to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stts_jax.data.sources.own_records import LONGEST_LINE
from stts_jax.data.sources.table_lines import lines_of
from stts_jax.data.sources.tables import tables_at

# Of a row of a table in bytes: it may hold pictures.
LONGEST_ROW = 500_000_000


@dataclass(frozen=True)
class LineFile:
    """A file of lines, or of one JSON list.

    Attributes:
      path: of the file.
      shown: path that messages name.
      folder: that paths in it are relative to.
      longest: bytes of a line.
    """

    path: Path
    shown: Path
    folder: Path
    longest: int

    @classmethod
    def at(cls, path: Path) -> LineFile:
        """Returns what a path names; rows of tables are written to a file of lines.

        Raises:
          OwnDataError: if it is a folder or a table that can't be read.
        """
        tables = tables_at(path)
        if tables is None:
            return cls(path, path, path.parent, LONGEST_LINE)
        return cls(lines_of(tables), path, tables.folder, LONGEST_ROW)

    @property
    def name(self) -> str:
        """What ids of lines begin with."""
        return self.shown.name
