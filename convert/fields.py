"""Typed reading of configuration files, in which any field may hold anything."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from stts_jax.config import ConfigError
from stts_jax.quoting import shorten

# Far above what any model has, and small enough that nothing made from it fills memory.
MOST_LAYERS = 10_000
MOST_SIZE = 1 << 24
MOST_WINDOW = 1 << 30  # positions and bases of powers
_MOST_ENTRIES = 10_000
_REQUIRED = object()
_REMEDY = "take the configuration that belongs to these weights"


class Fields:
    """A table of a configuration file; each read says which type and range the field must have.

    A field that is null counts as missing. Every method raises a `ConfigError` of one sentence that
    names the field.
    """

    def __init__(self, table: Any, path: str = "") -> None:
        """Wrap a table.

        Args:
          table: parsed JSON or YAML, which must be a mapping.
          path: its dotted name in the file, for messages.
        """
        if not isinstance(table, Mapping):
            where = path or "the file"
            raise ConfigError(f"{where} is {shorten(table)}; it must be a table, so {_REMEDY}")
        self._table, self._path = table, path

    def __contains__(self, name: str) -> bool:
        return self._table.get(name) is not None

    def table(self, *names: str, default: Any = _REQUIRED) -> Fields:
        """The table of the first of these names that is there."""
        name, value = self._find(names, default)
        return Fields(value, self._full(name))

    def plain(self) -> dict[str, Any]:
        """The table itself."""
        return dict(self._table)

    def whole(
        self, *names: str, default: Any = _REQUIRED, least: int = 1, most: int = MOST_SIZE
    ) -> Any:
        """A whole number from `least` to `most`, or the default."""
        name, value = self._find(names, default)
        if value is default:
            return value
        correct = isinstance(value, int) and not isinstance(value, bool)
        self._require(
            correct and least <= value <= most, name, value, f"a whole number, {least} to {most}"
        )
        return value

    def wholes(self, *names: str, default: Any = _REQUIRED, least: int, most: int) -> Any:
        """A tuple of whole numbers from `least` to `most`, or the default."""
        name, value = self._find(names, default)
        if value is default:
            return value
        correct = isinstance(value, list | tuple) and len(value) <= _MOST_ENTRIES
        self._require(
            correct
            and all(isinstance(n, int) and not isinstance(n, bool) for n in value)
            and all(least <= n <= most for n in value),
            name,
            value,
            f"a list of whole numbers, {least} to {most}",
        )
        return tuple(value)

    def side(self, *names: str, default: Any = _REQUIRED) -> Any:
        """The side of a square: a whole number, or a list of equal ones."""
        name, value = self._find(names, default)
        if value is default:
            return value
        sides = value if isinstance(value, list | tuple) and value else [value]
        correct = all(isinstance(n, int) and not isinstance(n, bool) for n in sides[:3])
        self._require(
            correct and len(sides) <= 2 and 1 <= sides[0] <= MOST_SIZE, name, value, "a side"
        )
        self._require(sides[0] == sides[-1], name, value, "square: only square windows can be read")
        return sides[0]

    def number(
        self, *names: str, default: Any = _REQUIRED, least: float = 0.0, most: float = 1e12
    ) -> Any:
        """A finite number from `least` to `most` as a float, or the default."""
        name, value = self._find(names, default)
        if value is default:
            return value
        correct = isinstance(value, int | float) and not isinstance(value, bool)
        # Compared before it is made a float: an int may be too large for one.
        self._require(
            correct and least <= value <= most and math.isfinite(value),
            name,
            value,
            f"a number, {least:g} to {most:g}",
        )
        return float(value)

    def flag(self, *names: str, default: Any = _REQUIRED) -> Any:
        """True or false, or the default."""
        name, value = self._find(names, default)
        self._require(isinstance(value, bool) or value is default, name, value, "true or false")
        return value

    def text(self, *names: str, default: Any = _REQUIRED) -> Any:
        """A text, or the default."""
        name, value = self._find(names, default)
        self._require(isinstance(value, str) or value is default, name, value, "a text")
        return value

    def choice(self, name: str, known: Mapping[str, Any], default: Any = _REQUIRED) -> Any:
        """Returns the value that `known` has for a text."""
        value = self.text(name, default=default)
        if value is default:
            return value
        if value not in known:
            raise ConfigError(
                f"{self._full(name)} is {shorten(value)}; only {', '.join(map(repr, known))} can "
                "be read"
            )
        return known[value]

    def _find(self, names: tuple[str, ...], default: Any) -> tuple[str, Any]:
        for name in names:
            if self._table.get(name) is not None:
                return name, self._table[name]
        if default is _REQUIRED:
            state = "null" if any(name in self._table for name in names) else "missing"
            raise ConfigError(f"{self._full(names[0])} is {state}; {_REMEDY}")
        return names[0], default

    def _full(self, name: str) -> str:
        return f"{self._path}.{name}" if self._path else name

    def _require(self, condition: bool, name: str, value: Any, wanted: str) -> None:
        if not condition:
            raise ConfigError(
                f"{self._full(name)} is {shorten(value)}; it must be {wanted}, so {_REMEDY}"
            )
