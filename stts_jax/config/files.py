"""Setups from TOML and JSON files, and `section.key=value` on top of them."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import logging
import math
import stat
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from stts_jax.buckets.address import path_of
from stts_jax.config.checks import ConfigError, require
from stts_jax.config.limits import MOST_LETTERS
from stts_jax.config.model import PruneConfig
from stts_jax.config.parsing import MOST_NESTED, parse_toml, read_table
from stts_jax.config.run import Config
from stts_jax.quoting import shorten

# In an installed package, and in a checkout; see setup.py.
_INSTALLED, _CHECKOUT = (parent / "configs" for parent in Path(__file__).resolve().parents[1:3])
CONFIG_DIR = _INSTALLED if _INSTALLED.is_dir() else _CHECKOUT
# A chain of files that name each other as their base.
_MOST_BASES = 32
# Of a key that is looked for among those that are known.
MOST_KEY_LETTERS = 64
# Settings that had another name, in full: old files and habits go on working.
FORMER_NAMES: dict[tuple[type, str], tuple[str, str]] = {
    (PruneConfig, "packing"): ("model.prune.packing", "model.prune.layout")
}
# Of a whole number: any float can be made of it.
_MOST_BITS = 1000
T = TypeVar("T")


def config_names() -> list[str]:
    """Returns the names of the shipped setups."""
    return sorted(path.stem for path in CONFIG_DIR.glob("*.toml"))


def load_config(name: str, overrides: Sequence[str] = ()) -> Config:
    """Reads a shipped setup by name, or a .toml or .json file by path, and apply overrides.

    Args:
      name: for example `tiny`, `my_setup.toml`, or the `config.json` of an earlier run.
      overrides: `section.key=value` strings, applied in order.
    """
    values = dataclasses.asdict(Config())
    _merge(values, _read(name))
    return _overridden(values, overrides)


def override(config: Config, overrides: Sequence[str]) -> Config:
    """Returns a copy with `section.key=value` strings applied in order, checked again."""
    return _overridden(dataclasses.asdict(config), overrides)


def _overridden(values: dict[str, Any], overrides: Sequence[str]) -> Config:
    for item in overrides:
        key, separator, text = item.partition("=")
        require(bool(separator), f"override {shorten(item)} has no '='; write section.key=value")
        key = key.strip()
        _merge(values, _renamed(Config, _nest(key, _parse_value(key, text.strip()))))
    return _build(Config, values, "")


def config_from_dict(values: Mapping[str, Any]) -> Config:
    """Builds a `Config` from nested plain values, refusing unknown keys and wrong types."""
    return _build(Config, _renamed(Config, values), "")


def replace(config: T, overrides: Mapping[str, Any]) -> T:
    """Returns a copy with dotted keys replaced, checked again: `{"prune.topk": 0.3}`."""
    values = dataclasses.asdict(config)  # type: ignore[call-overload]
    for key, value in overrides.items():
        _merge(values, _renamed(type(config), _nest(key, value)))
    return _build(type(config), values, "")


def _read(name: str, readers: tuple[Path, ...] = ()) -> dict[str, Any]:
    path = _file_of(name)
    values = _renamed(Config, read_table(path))
    base = values.pop("base", None)
    if base is None:
        return values
    require(isinstance(base, str), f"base in '{path}' is {shorten(base)}; name a config or a file")
    _require_text("base", base)
    readers = (*readers, path.resolve())
    require(len(readers) <= _MOST_BASES, f"config file '{path}' has too long a chain of bases")
    named = str(path.parent / base) if base.endswith((".toml", ".json")) else base
    require(
        (CONFIG_DIR / f"{named}.toml").resolve() not in readers
        and Path(named).resolve() not in readers,
        f"config file '{path}' has itself as its base; name another one",
    )
    merged = _read(named, readers)
    _merge(merged, values)
    return merged


def _file_of(name: str) -> Path:
    """Returns the file of a setup, which exists."""
    path = path_of(name)
    named = path.suffix not in (".toml", ".json")
    if named:
        path = CONFIG_DIR / f"{name}.toml"
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        mode = 0
    except (OSError, ValueError) as error:  # too long, or not the name of a file at all
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(
            f"config file {shorten(name)} cannot be read: {reason}; check the path"
        ) from error
    if named and not stat.S_ISREG(mode):
        raise ConfigError(
            f"there is no config named {shorten(name)}; choose from {', '.join(config_names())}, "
            "or give the path of a .toml or .json file"
        )
    require(
        not stat.S_ISDIR(mode),
        f"config file '{path}' is a folder; give the path of a .toml or .json file",
    )
    require(mode != 0, f"config file '{path}' does not exist; check the path")
    require(stat.S_ISREG(mode), f"config file '{path}' is no regular file; check the path")
    return path


def _nest(key: str, value: Any) -> dict[str, Any]:
    *outer, last = key.split(".")
    require(len(outer) < MOST_NESTED, f"unknown setting {shorten(key)}; it has too many dots")
    nested: dict[str, Any] = {last: value}
    for part in reversed(outer):
        nested = {part: nested}
    return nested


def _merge(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value


def _parse_value(key: str, text: str) -> Any:
    """Parses a TOML value; other text is taken as a plain string."""
    try:
        found = parse_toml(f"value = {text}")
        return found["value"] if len(found) == 1 else text
    except tomllib.TOMLDecodeError:
        return text
    except ValueError as error:
        raise ConfigError(
            f"{shorten(key)} is {shorten(text)}, which cannot be read: {error}"
        ) from error


def _build(cls: type[T], values: Any, path: str) -> T:
    where = path or "the config"
    require(
        isinstance(values, Mapping), f"{where} is {shorten(values)}; it must be a table of settings"
    )
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            full = f"{path}.{key}" if path else str(key)
            close = difflib.get_close_matches(str(key)[:MOST_KEY_LETTERS], known, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"known are {', '.join(known)}"
            raise ConfigError(f"unknown setting {shorten(full)}; {hint}")
    arguments = {
        key: _convert(hints[key], value, f"{path}.{key}" if path else key)
        for key, value in values.items()
    }
    for name, f in known.items():
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        require(not required or name in arguments, f"{where} lacks '{name}'; set it")
    try:
        return cls(**arguments)
    except ConfigError as error:
        if path and not str(error).startswith(("model.", "data.", "train.", "eval.")):
            raise ConfigError(f"{path}: {error}") from None
        raise


def _renamed(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a table of settings of `cls` with former names replaced, at any depth."""
    hints, renamed = typing.get_type_hints(cls), {}
    for key, value in values.items():
        name = key
        if (cls, key) in FORMER_NAMES:
            former, full = FORMER_NAMES[cls, key]
            name = full.rpartition(".")[2]
            _tell_of_former(former, full)
        inner = hints.get(name)
        if isinstance(inner, type) and dataclasses.is_dataclass(inner):
            value = _renamed(inner, value) if isinstance(value, Mapping) else value
        renamed[name] = value
    return renamed


@functools.cache
def _tell_of_former(former: str, name: str) -> None:
    logging.getLogger(__name__).warning("the setting %s is called %s now", former, name)


def _convert(hint: Any, value: Any, path: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value in (None, "none", "null", "None"):
            require(type(None) in args, f"{path} is empty; set it")
            return None
        return _convert(next(a for a in args if a is not type(None)), value, path)
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, path)
    if origin is Literal:
        require(
            value in args, f"{path} is {shorten(value)}; choose from {', '.join(map(str, args))}"
        )
        return value
    if origin is tuple:
        require(
            isinstance(value, list | tuple),
            f"{path} is {shorten(value)}; it must be a list, [1, 2]",
        )
        return tuple(_convert(args[0], item, path) for item in value)
    if isinstance(value, int) and value.bit_length() > _MOST_BITS and hint in (int, float, str):
        raise ConfigError(f"{path} is {shorten(value)}; use a number that is not so far from 0")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if hint is str and isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    correct = isinstance(value, hint) and not (hint is int and isinstance(value, bool))
    require(correct, f"{path} is {shorten(value)}; it must be of type {hint.__name__}")
    if hint is str:
        _require_text(path, value)
    if hint is float:
        require(math.isfinite(value), f"{path} is {value}; it must be a finite number")
    return value


def _require_text(path: str, value: str) -> None:
    if len(value) > MOST_LETTERS or "\0" in value:
        raise ConfigError(
            f"{path} is {shorten(value)}; use at most {MOST_LETTERS} letters, none of which is NUL"
        )
