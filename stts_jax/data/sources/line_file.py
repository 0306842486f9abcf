"""A file of users' own data as it is read: what its path names, and what its lines refer to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stts_jax.buckets.address import is_bucket
from stts_jax.data.datasets.regular_file import require_regular_file
from stts_jax.data.sources.own_line import OwnDataError
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
        if is_bucket(path):
            return cls._in_bucket(path)
        tables = tables_at(path)
        if tables is None:
            return cls(path, path, path.parent, LONGEST_LINE)
        return cls(lines_of(tables), path, tables.folder, LONGEST_ROW)

    @classmethod
    def _in_bucket(cls, path: Path) -> LineFile:
        """Returns a file of lines or one table in a bucket, with a copy on this machine."""
        from stts_jax.buckets.local_cache import kept_copy

        require_regular_file(path, "a .jsonl file", OwnDataError)
        found = cls.at(kept_copy(path))
        return cls(found.path, path, path.parent, found.longest)

    @property
    def name(self) -> str:
        """What ids of lines begin with."""
        return self.shown.name
