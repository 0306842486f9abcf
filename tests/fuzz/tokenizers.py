"""Changed files of tokenizers."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

from fuzz.changes import change_bytes, change_file, change_json
from fuzz.registry import Note, target
from stts_jax.data.text.tokenizer import CONFIG_FILE, TINY_FILE, Tokenizer, TokenizerError

TEXT = "What colour is it at 12.5 seconds? <im_patch>\n 不是蓝色。 " + "a" * 200
# Parts that no published model has together with this one's vocabulary.
PARTS: tuple[tuple[str, Any], ...] = (
    (
        "truncation",
        {"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0},
    ),
    (
        "padding",
        {
            "strategy": {"Fixed": 64},
            "direction": "Left",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "<|endoftext|>",
        },
    ),
    ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
    ("normalizer", {"type": "Prepend", "prepend": "x" * 100_000}),
    (
        "normalizer",
        {
            "type": "Sequence",
            "normalizers": [{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}] * 30,
        },
    ),
    (
        "pre_tokenizer",
        {
            "type": "Split",
            "pattern": {"Regex": "(a+)+$"},
            "behavior": "Isolated",
            "invert": False,
        },
    ),
    ("pre_tokenizer", {"type": "WhitespaceSplit"}),
    ("decoder", {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10_000}),
)


def _write(folder: Path) -> Path:
    path = folder / "tokenizer.json"
    path.write_bytes(TINY_FILE.read_bytes())
    (folder / CONFIG_FILE).write_text('{"eos_token": {"content": "<|im_end|>"}, "bos_token": null}')
    return path


def _used(path: Path, vocab_size: int = 512) -> None:
    tokenizer = Tokenizer.load(str(path), vocab_size)
    tokenizer.decode(tokenizer.encode(TEXT))


@target("bytes of a tokenizer", (TokenizerError,), 20)
def changed_bytes(folder: Path, rng: Random, note: Note) -> None:
    path = _write(folder)
    one = rng.choice((path, path.with_name(CONFIG_FILE)))
    note((change_file if rng.random() < 0.4 else change_bytes)(one, rng))
    _used(path)


@target("values of a tokenizer", (TokenizerError,), 40)
def changed_values(folder: Path, rng: Random, note: Note) -> None:
    path = _write(folder)
    note(change_json(rng.choice((path, path.with_name(CONFIG_FILE))), rng))
    _used(path, rng.choice((512, 512, 600, 100, 10**8, 2**63)))


@target("parts of a tokenizer", (TokenizerError,), 5)
def changed_parts(folder: Path, rng: Random, note: Note) -> None:
    path = _write(folder)
    described = json.loads(path.read_text())
    name, part = rng.choice(PARTS)
    described[name] = part
    note(f"{name} = {str(part)[:80]}")
    path.write_text(json.dumps(described))
    _used(path)
