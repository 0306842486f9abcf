"""Odd settings, files of settings, and lines of own data."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from fuzz.changes import ODD, change_bytes, change_json
from fuzz.registry import Note, target
from stts_jax.config import ConfigError, load_config, override
from stts_jax.data.bad_examples import READING_ERRORS
from stts_jax.data.sources.own_line import parse

LINES = (
    {"video": "a.mp4", "question": "What?", "answer": "a cat", "clip": [1, 2], "type": "what"},
    {"images": ["a.png", "b.png"], "question": "What?", "options": ["a", "b"], "answer": "a"},
    {"video": "a.mp4", "turns": [{"question": "What?", "answer": "a cat"}], "id": "7"},
    {"video": "a.mp4", "caption": "A cat.", "subtitle": [{"start": 0, "end": 1, "text": "Hi"}]},
    {
        "videos": ["a.mp4"],
        "messages": [
            {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "What?"}]},
            {"role": "assistant", "content": "a cat"},
        ],
    },
    {
        "image": "a.png",
        "conversations": [
            {"from": "human", "value": "<image>\nWhat?"},
            {"from": "gpt", "value": "a cat"},
        ],
    },
)


def _names(config: Any, prefix: str = "") -> Iterator[str]:
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), f"{prefix}{field.name}"
        yield name
        if dataclasses.is_dataclass(value):
            yield from _names(value, f"{name}.")


@cache
def _known() -> tuple[str, ...]:
    return tuple(_names(load_config("tiny")))


def _odd_text(rng: Random) -> str:
    odd = rng.choice(ODD)
    kinds = (
        str(odd),
        repr(odd),
        json.dumps(odd),
        "9" * rng.choice((1, 20, 400, 5000)),
        "".join(chr(rng.randrange(1, 0x2FF)) for _ in range(rng.randrange(12))),
        "[" * rng.choice((1, 50, 3000)),
    )
    return rng.choice(kinds)


@target("--set", (ConfigError,), 150)
def changed_setting(folder: Path, rng: Random, note: Note) -> None:
    del folder
    key = rng.choice(_known()) if rng.random() < 0.9 else _odd_text(rng)
    setting = f"{key}={_odd_text(rng)}"
    note(setting[:200])
    override(load_config("tiny"), [setting])


@target("a file of settings", (ConfigError,), 60)
def changed_settings_file(folder: Path, rng: Random, note: Note) -> None:
    if rng.random() < 0.5:
        path = folder / "config.json"
        path.write_text(json.dumps(dataclasses.asdict(load_config("tiny"))))
        note(change_json(path, rng))
    else:
        path = folder / "config.toml"
        path.write_text(
            'name = "x"\nbase = "tiny"\n[model.prune]\ntopk = 0.5\n[train]\nsteps = 5\n'
        )
        note(change_bytes(path, rng))
    load_config(str(path))


@target("a line of own data", READING_ERRORS, 150)
def changed_line(folder: Path, rng: Random, note: Note) -> None:
    path = folder / "line.json"
    path.write_text(json.dumps(rng.choice(LINES)))
    note(change_json(path, rng) if rng.random() < 0.8 else change_bytes(path, rng))
    parse(path.read_text(errors="surrogateescape"), "line.jsonl:1", "line:1")
