"""Prints docs/settings.md, the reference of all settings: `python -m stts_jax.config.reference`.

All of it is read from the dataclasses: name, type and default from the fields, meanings from the
`Attributes:` sections of the docstrings, bounds from a field's metadata where it declares `minimum`
or `maximum`, and from the files in `configs/` which setup sets what.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from stts_jax.config.files import CONFIG_DIR, config_names, load_config
from stts_jax.config.model import YarnConfig
from stts_jax.config.run import Config

HEAD = """\
# Settings

<!-- Made by `make settings` from stts_jax/config and configs/; change those, not this file. -->

Every command that has a configuration takes `--config`, the name of a setup in `configs/` or a
`.toml` or `.json` file, and `--set SETTING=VALUE ...`, which changes single settings:

```
.venv/bin/python train.py --config tiny --output runs/short \\
    --set train.steps=100 model.prune.topk=0.3
```

A file may name a setup as its `base` and states only what differs from it. Values are written as in
TOML: `true`, `1e-4`, `[10, 15]`; a text needs no quotes, and `none` stands for no value. The last
column lists the setups in `configs/` that state another value than their base, or without a base
than the default.
"""
TABLE_HEAD = ("| setting | type | default | meaning | in setups |", "|---|---|---|---|---|")


@dataclass(frozen=True)
class Setting:
    """One line of the reference.

    Attributes:
      name: dotted, as `--set` takes it.
      type: in words or as a list of choices.
      default: as `--set` takes it.
      meaning: from the docstring.
      setups: value by name of the setups that change it.
    """

    name: str
    type: str
    default: str
    meaning: str
    setups: Mapping[str, str]


@dataclass(frozen=True)
class Section:
    """A dataclass of settings: its dotted name, first sentence and settings."""

    name: str
    summary: str
    settings: tuple[Setting, ...]


def sections() -> Iterator[Section]:
    """Yields all sections, each before those within it."""
    yield from sections_of(Config(), "", {name: _changes(name) for name in config_names()})


def reference() -> str:
    """Returns the text of docs/settings.md."""
    lines = [HEAD]
    for section in sections():
        lines += [f"## {section.name or 'setup'}", "", section.summary, "", *TABLE_HEAD]
        lines += [_row(setting) for setting in section.settings]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def meanings(cls: type) -> dict[str, str]:
    """Returns the meaning of each field that the `Attributes:` section of a docstring names."""
    _, found, text = inspect.cleandoc(cls.__doc__ or "").partition("\nAttributes:\n")
    if not found:
        return {}
    # A blank line ends the section; a name stands two columns in, what goes on with it further.
    entries = re.split(r"^  (?=\w)", text.split("\n\n")[0], flags=re.MULTILINE)[1:]
    named = (" ".join(entry.split()).partition(": ") for entry in entries)
    return {n.strip(): meaning for names, _, meaning in named for n in names.split(",")}


def sections_of(
    values: Any, path: str, setups: Mapping[str, dict[str, Any]] | None = None, about: str = ""
) -> Iterator[Section]:
    """Yields the section of a dataclass, then those of the dataclasses among its fields.

    Args:
      values: the dataclass with its defaults.
      path: its dotted name.
      setups: what each setup changes in it, by name.
      about: a sentence to put before that of its docstring.
    """
    cls = type(values)
    hints, meant = typing.get_type_hints(cls), meanings(cls)
    parts = [_part(hint) for hint in hints.values()]
    within, settings = [], []
    for f in dataclasses.fields(cls):
        name = f"{path}.{f.name}" if path else f.name
        value, meaning = getattr(values, f.name), _sentence(meant.get(f.name, ""))
        changed = {s: v[f.name] for s, v in (setups or {}).items() if f.name in v}
        part = _part(hints[f.name])
        if part is None:
            kind = _type(hints[f.name]) + _bounds(f.metadata)
            shown = {s: _written(v) for s, v in changed.items() if f.name != "name"}
            settings.append(Setting(name, kind, _written(value), meaning, shown))
        else:
            default = _absent(part) if value is None else value
            within.append((default, name, changed, meaning if parts.count(part) > 1 else ""))
    if settings:
        yield Section(path, f"{about} {_summary(cls)}".strip(), tuple(settings))
    for default, name, changed, meaning in within:
        yield from sections_of(default, name, changed, meaning)


def _part(hint: Any) -> type | None:
    """Returns the dataclass that a field holds, None where it holds a plain value."""
    for option in typing.get_args(hint) or (hint,):
        if isinstance(option, type) and dataclasses.is_dataclass(option):
            return option
    return None


def _absent(cls: type) -> Any:
    """Returns the defaults of a part that is absent unless a setup states it."""
    if cls is not YarnConfig:
        raise TypeError(f"{cls.__name__} is absent by default; say here what it holds if stated")
    return YarnConfig(layers=())


def _changes(name: str) -> dict[str, Any]:
    """Returns what the file of a setup states otherwise than its base, or than the defaults."""
    stated = tomllib.loads((CONFIG_DIR / f"{name}.toml").read_text())
    base = load_config(stated.pop("base")) if "base" in stated else Config()
    return _other(stated, dataclasses.asdict(base))


def _other(stated: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in stated.items():
        if isinstance(value, Mapping):
            found[key] = _other(value, before.get(key) or {})
        elif key not in before or _written(value) != _written(before[key]):
            found[key] = value
    return found


def _summary(cls: type) -> str:
    return " ".join(inspect.cleandoc(cls.__doc__ or "").split("\nAttributes:\n")[0].split())


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _type(hint: Any) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return " or ".join("`none`" if a is type(None) else _type(a) for a in args)
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in args)
    if origin is tuple:
        return f"list of {_type(args[0])}s"
    names = {int: "whole number", float: "number", str: "text", bool: "`true`, `false`"}
    return names[hint]


def _bounds(metadata: Mapping[str, Any]) -> str:
    low, high = metadata.get("minimum"), metadata.get("maximum")
    if low is None and high is None:
        return ""
    if high is None:
        return f", from {_written(low)}"
    return f", to {_written(high)}" if low is None else f", {_written(low)} to {_written(high)}"


def _written(value: Any) -> str:
    """Returns a value as `--set` takes it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        items = (f'"{item}"' if isinstance(item, str) else _written(item) for item in value)
        return f"[{', '.join(items)}]"
    if isinstance(value, float):
        short = f"{value:g}" if float(f"{value:g}") == value else repr(value)
        return re.sub(r"e([+-])0*", lambda sign: "e" + sign[1].strip("+"), short)
    return str(value) if value != "" else '""'


def _row(setting: Setting) -> str:
    by_value: dict[str, list[str]] = {}
    for setup, value in setting.setups.items():
        by_value.setdefault(value, []).append(f"`{setup}`")
    setups = "; ".join(f"{value}: {', '.join(names)}" for value, names in by_value.items())
    # Docstrings write `python -m`, as `--help` does; pages write what runs after `make setup`.
    meaning = setting.meaning.replace("`python -m", "`.venv/bin/python -m")
    cells = (f"`{setting.name}`", setting.type, f"`{setting.default}`", meaning, setups)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells).rstrip() + " |"


if __name__ == "__main__":
    print(reference(), end="")
