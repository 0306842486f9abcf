"""Tokenizer files that cut prompts, do harm or are damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stts_jax.config import SPECIAL_TOKENS
from stts_jax.data.text import tokenizer_file
from stts_jax.data.text.tokenizer import CONFIG_FILE, TINY_FILE, Tokenizer, TokenizerError

TEXT = "What colour is the ring at 12.5 seconds?"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write(tmp_path: Path, **parts: Any) -> str:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(json.loads(TINY_FILE.read_text()) | parts))
    return str(path)


def refused(path: str, vocab_size: int = 512) -> str:
    with pytest.raises(TokenizerError) as caught:
        Tokenizer.load(path, vocab_size)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 800
    return str(caught.value)


def no_trial(*_: Any) -> None:
    raise AssertionError("a trial was made")


TRUNCATION = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
PADDING = {
    "strategy": {"Fixed": 64},
    "direction": "Right",
    "pad_to_multiple_of": None,
    "pad_id": 0,
    "pad_type_id": 0,
    "pad_token": "<|endoftext|>",
}


@pytest.mark.parametrize("parts", [{"truncation": TRUNCATION}, {"padding": PADDING}])
def test_texts_are_neither_cut_nor_filled(tmp_path: Path, parts, monkeypatch) -> None:
    monkeypatch.setattr(tokenizer_file, "_try", no_trial)
    found = Tokenizer.load(write(tmp_path, **parts), 512).encode(TEXT)
    assert found == Tokenizer.load("tiny", 512).encode(TEXT)


DOUBLED = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
SPLIT = {"type": "Split", "behavior": "Isolated", "invert": False}
HARM = {
    "a text doubled thirty times": {
        "normalizer": {"type": "Sequence", "normalizers": [DOUBLED] * 30}
    },
    "a pattern tried for hours": {
        "pre_tokenizer": {**SPLIT, "pattern": {"Regex": "(?:a+)+(?:a+)+(?:a+)+$"}}
    },
    "a part that ends the library": {
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    },
    "a text before each text": {"normalizer": {"type": "Prepend", "prepend": "x" * 10**6}},
    "a page for each id": {
        "decoder": {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10**6}
    },
}


@pytest.mark.parametrize("harm", HARM)
def test_a_tokenizer_that_does_harm_is_refused(tmp_path: Path, harm: str) -> None:
    assert "use a tokenizer.json" in refused(write(tmp_path, **HARM[harm]))


def test_an_unusual_tokenizer_is_tried_once(tmp_path: Path, monkeypatch) -> None:
    normalizer = {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, {"type": "NFC"}]}
    path = write(tmp_path, normalizer=normalizer)
    assert Tokenizer.load(path, 512).decode(Tokenizer.load(path, 512).encode("RED")) == "red"
    monkeypatch.setattr(tokenizer_file, "_try", no_trial)
    Tokenizer.load(path, 512)
    normalizer["normalizers"].append({"type": "NFD"})
    with pytest.raises(AssertionError, match="a trial was made"):
        Tokenizer.load(write(tmp_path, normalizer=normalizer), 512)


def test_usual_tokenizers_need_no_trial(monkeypatch) -> None:
    from qwen3_tokenizer import VOCAB_SIZE, reduced_tokenizer_path

    monkeypatch.setattr(tokenizer_file, "_try", no_trial)
    Tokenizer.load("tiny", 512)
    Tokenizer.load(str(reduced_tokenizer_path()), VOCAB_SIZE)


@pytest.mark.parametrize(
    "parts",
    [
        {"added_tokens": [{"id": i, "content": f"x{i}"} for i in range(30_000)]},
        {"added_tokens": [{"id": 512, "content": "x" * 5000}]},
        {"added_tokens": 5},
        {"added_tokens": [None]},
        {"model": None},
        {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [], "dropout": 0.5}},
        {"model": {"type": "none"}},
    ],
    ids=lambda parts: str(parts)[:30],
)
def test_odd_parts_are_one_sentence(tmp_path: Path, parts: dict[str, Any]) -> None:
    refused(write(tmp_path, **parts))


@pytest.mark.parametrize("text", ["[" * 100_000, "", "5", "[]", "\0", '{"model": {}, "model": {}}'])
def test_what_is_no_tokenizer_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    refused(str(tmp_path / "tokenizer.json"))


def test_a_file_larger_than_any_tokenizer_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with path.open("wb") as file:
        file.truncate(1 << 33)
    assert "holds more than" in refused(str(path))


@pytest.mark.parametrize("vocab_size", [10**8, 2**63])
def test_ids_without_tokens_are_not_made_by_the_million(tmp_path: Path, vocab_size: int) -> None:
    assert "without a token" in refused(str(TINY_FILE), vocab_size)


@pytest.mark.parametrize("odd", [5, True, [], {}, {"content": 5}, "", "x" * 5000, "\ud800"])
@pytest.mark.parametrize("name", ["eos_token", "bos_token"])
def test_marks_that_are_no_tokens_are_one_sentence(tmp_path: Path, name: str, odd: Any) -> None:
    path = write(tmp_path)
    (tmp_path / CONFIG_FILE).write_text(json.dumps({name: odd}))
    refused(path)


def test_a_tokenizer_saved_with_the_visual_tokens_is_read_again(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load("tiny", 600)
    path = tmp_path / "tokenizer.json"
    path.write_text(tokenizer._base.to_str())
    again = Tokenizer.load(str(path), 600)
    assert again.special_ids == {name: 600 + i for i, name in enumerate(SPECIAL_TOKENS)}
