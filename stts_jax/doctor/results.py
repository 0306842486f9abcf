"""The result of a check, as plain values."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["backend", "kernel", "rate", "block"]
# `wrong`: it ran and its result differs. `failed`: it raised, crashed or hung.
Status = Literal["ok", "wrong", "failed", "not run"]
_MOST_LETTERS = 300
_FOLDERS = re.compile(r"(?<![\w.:/])/(?:[^\s/'\":,;()]+/)+")


@dataclass(frozen=True)
class Outcome:
    """The findings of a check that ran.

    Attributes:
      values: plain values for the report.
      difference: how the result differs from the reference, empty where it doesn't.
    """

    values: Mapping[str, Any]
    difference: str = ""


@dataclass(frozen=True)
class Check:
    """One thing to check or to time.

    Attributes:
      name: unique.
      kind: the table that it belongs to.
      run: returns the outcome, or raises.
    """

    name: str
    kind: Kind
    run: Callable[[], Outcome]


@dataclass(frozen=True)
class Result:
    """What became of a check.

    Attributes:
      name, kind: of the check.
      status: see `Status`.
      error: one line where the status is not `ok`.
      seconds: that it took, compilation included.
      values: the findings.
    """

    name: str
    kind: str
    status: Status
    error: str = ""
    seconds: float = 0.0
    values: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Returns plain values; numbers that are not finite become None, as JSON has none."""
        return {
            "name": self.name,
            "kind": self.kind,
            "status": self.status,
            "error": without_folders(self.error),
            "seconds": round(self.seconds, 3),
            **plain(dict(self.values)),
        }


def plain(value: Any) -> Any:
    """Returns a value with None for numbers that are not finite, and NumPy's as Python's."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, bool | str | int | None):
        return value
    number = float(value)
    return number if math.isfinite(number) else None


def without_folders(text: str) -> str:
    """Returns a text with the last part of each absolute path, as folders may name their user."""
    return _FOLDERS.sub("", text)


def one_line(error: BaseException) -> str:
    """Returns the type and the first line of the message of an error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return text if len(text) <= _MOST_LETTERS else f"{text[:_MOST_LETTERS]}..."
