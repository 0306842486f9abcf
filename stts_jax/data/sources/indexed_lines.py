"""The lines of users' own data by their number in the index, read when asked for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO

from stts_jax.data.sources.index_building import SAVED_FROM, index_of
from stts_jax.data.sources.line_file import LineFile
from stts_jax.data.sources.own_line import Line, OwnDataError
from stts_jax.data.sources.own_records import parse_content


class IndexedLines:
    """Random access to lines, in the order of their examples.

    Small files are kept in memory. A large one is opened by each process that reads it, which has
    no more of it than the name; it may not be written while it is in use.

    Attributes:
      index: of the file.
      file: what is read.
    """

    def __init__(self, path: Path) -> None:
        """Find or build the index; see `LineFile.at` and `index_of`."""
        self.file = LineFile.at(path)
        self.index = index_of(self.file)
        self._open: BinaryIO | None = None
        small = self.index.header.signature.size < SAVED_FROM
        self._content = self.file.path.read_bytes() if small else None

    def __getitem__(self, position: int) -> Line:
        """The line at a position in the index's arrays.

        Raises:
          OwnDataError: if the file has been written since its index was built.
        """
        arrays = self.index.arrays
        offset, length = int(arrays.offsets[position]), int(arrays.lengths[position])
        content = self._read(offset, length)
        line = parse_content(content, self.file.shown, int(arrays.numbers[position]))
        if line is None:
            raise self.changed()
        return line

    def location(self, position: int) -> str:
        """The name of the file and the number of a line."""
        return f"{self.file.shown.name}:{int(self.index.arrays.numbers[position])}"

    def changed(self) -> OwnDataError:
        """The error of a file that is not what its index is of."""
        return OwnDataError(
            f"'{self.file.shown}' was written after the run had begun to read it; start the run "
            "again"
        )

    def _read(self, offset: int, length: int) -> bytes:
        if self._content is not None:
            return self._content[offset : offset + length]
        try:
            if self._open is None:
                self._open = self.file.path.open("rb", buffering=0)
            number = self._open.fileno()
            content = os.pread(number, length, offset)
            state = os.fstat(number)
        except OSError as error:
            raise OwnDataError(
                f"'{self.file.shown}' cannot be read: {error.strerror}; check its permissions and "
                "its disk"
            ) from error
        known = self.index.header.signature
        if (state.st_size, state.st_mtime_ns) != (known.size, known.modified):
            raise self.changed()
        return content

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_open": None}
