"""Tables from TOML and JSON text that anybody may have written: small, and not deeply nested."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

from stts_jax.config.checks import ConfigError, require

MOST_BYTES = 1_000_000
# Tables or lists in each other, or parts of a dotted key; settings have three.
MOST_NESTED = 16
# On a line, of a key or a number; tomllib takes time with the square of those in a key.
_MOST_DOTS = 200
# A string, or a bracket outside of strings.
_STRING_OR_BRACKET = re.compile(r"""\"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|[\[\]{}]""")


def read_table(path: Path) -> dict[str, Any]:
    """Returns what a .toml or .json file holds.

    Raises:
      ConfigError: if it can't be read, or holds something else.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise ValueError(f"it is larger than {MOST_BYTES // 1_000_000} MB")
        text = data.decode()
        values = parse_json(text) if path.suffix == ".json" else parse_toml(text)
    except (ValueError, OSError) as error:
        raise ConfigError(f"config file '{path}' cannot be read: {error}; fix it") from error
    require(isinstance(values, dict), f"config file '{path}' holds no table; fix it")
    return values


def parse_toml(text: str) -> dict[str, Any]:
    """`tomllib.loads` for text that may be meant to break it.

    Raises:
      ValueError: for text that is not TOML (`TOMLDecodeError`), or too large or nested too deeply.
    """
    _require_shallow(text)
    for line in text.splitlines():
        if line.count(".") > _MOST_DOTS:
            raise ValueError(f"a line has more than {_MOST_DOTS} dots")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except tomllib.TOMLDecodeError:
        raise
    except ValueError:  # Python's own limit, with a remedy for programmers
        raise ValueError("a number in it has thousands of digits") from None


def parse_json(text: str) -> Any:
    """`json.loads` for text that may be meant to break it.

    Raises:
      ValueError: for text that is not JSON, or too large or nested too deeply.
    """
    _require_shallow(text)
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _require_shallow(text: str) -> None:
    if len(text) > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES} letters")
    depth = 0
    for found in _STRING_OR_BRACKET.finditer(text):
        bracket = found.group()
        depth += 1 if bracket in "[{" else -1 if bracket in "]}" else 0
        if depth > MOST_NESTED:
            raise ValueError(f"it is nested more than {MOST_NESTED} deep")
