"""How a configuration says what is wrong with it."""

from __future__ import annotations

from typing import Any


class ConfigError(ValueError):
    """A configuration that cannot be built; the message is one sentence with the remedy."""


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def require_positive(owner: str, config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        require(value > 0, f"{owner}.{name} is {value}; set it above 0")
