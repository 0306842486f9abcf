"""Checks of a configuration, and their error."""

from __future__ import annotations

from typing import Any

from stts_jax.config.limits import MAXIMA, MOST_ENTRIES
from stts_jax.quoting import shorten


class ConfigError(ValueError):
    """A configuration that cannot be built; the message is one sentence with the remedy."""


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def require_within_limits(owner: str, config: Any, path: str | None = None) -> None:
    """Refuses numbers beyond `MAXIMA`; called first, so that later messages may show any number.

    Args:
      owner: whose limits, a key of `MAXIMA`.
      config: dataclass with these settings.
      path: that messages name, by default `owner`.
    """
    for name, most in MAXIMA[owner].items():
        value = getattr(config, name)
        where = f"{owner if path is None else path}.{name}".removeprefix(".")
        numbers = value if isinstance(value, list | tuple) else [] if value is None else [value]
        require(
            len(numbers) <= MOST_ENTRIES,
            f"{where} has {len(numbers)} entries; use at most {MOST_ENTRIES}",
        )
        for number in numbers:
            if not isinstance(number, int | float):
                raise ConfigError(f"{where} is {shorten(number)}; it must be a number")
            if not -most <= number <= most:
                bound = "at most" if number > 0 else "above"
                raise ConfigError(
                    f"{where} is {shorten(number)}; use {bound} {most if number > 0 else -most}"
                )


def require_positive(owner: str, config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        require(value > 0, f"{owner}.{name} is {value}; set it above 0")
