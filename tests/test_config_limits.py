"""Settings, files and options that nobody means: one short sentence, before anything is made."""

from __future__ import annotations

import dataclasses
import os
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from stts_jax.arguments import Parser, seed
from stts_jax.config import Config, ConfigError, GroupConfig, YarnConfig, load_config
from stts_jax.config.limits import LARGEST_SEED, MAXIMA
from stts_jax.data.mixture_order import MixtureOrder
from stts_jax.parallel.parameters import key_of_seed
from stts_jax.quoting import shorten, shorten_words

LONGEST_MESSAGE = 700


def refusal(name: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        load_config(name, overrides)
    message = str(error.value)
    assert len(message) < LONGEST_MESSAGE and "\n" not in message
    return message


def numeric_settings(cls: type, owner: str) -> Iterator[tuple[str, str, bool]]:
    """Owner and name of every numeric setting, and whether it is a list."""
    for name, hint in typing.get_type_hints(cls).items():
        options = [hint, *typing.get_args(hint)]
        inner = next((option for option in options if dataclasses.is_dataclass(option)), None)
        if inner is not None:
            group = "train group" if inner is GroupConfig else f"{owner}.{name}".removeprefix(".")
            yield from numeric_settings(inner, group)
        elif any(option in (int, float) for option in options):
            yield owner, name, typing.get_origin(hint) is tuple


def test_every_numeric_setting_has_a_largest_value() -> None:
    found = {(owner, name) for owner, name, _ in numeric_settings(Config, "")}
    assert found == {(owner, name) for owner, names in MAXIMA.items() for name in names}


@pytest.mark.parametrize(
    ("owner", "name", "is_list"), sorted(set(numeric_settings(Config, ""))), ids=str
)
def test_a_number_beyond_the_largest_is_refused_by_name(owner, name, is_list) -> None:
    path = owner.replace("train group", "train.llm") + f".{name}"
    more = ("model.llm.yarn.layers=[0]",) if "yarn" in owner and name != "layers" else ()
    for text in ("1" + "0" * 30, "-1" + "0" * 30, "1" + "0" * 400):
        message = refusal("tiny", *more, f"{path}={f'[{text}]' if is_list else text}")
        assert message.replace("llm: ", "llm.").startswith(f"{path} is "), message


def test_the_published_setups_are_within_the_limits() -> None:
    assert load_config("molmo2_o_7b").model.llm.yarn == YarnConfig((3, 7, 11, 15, 19, 23, 27, 31))


@pytest.mark.parametrize(
    "override",
    [
        "train.steps=" + "9" * 5000,
        "train.steps=0x" + "f" * 6000,
        "train.clip=1" + "0" * 400,
        "train.clip=1e400",
        "x=" + "[" * 3000,
        "x=" + "[" * 3000 + "]" * 3000,
        "x=" + "{a=" * 3000,
        "a" + "." * 5000 + "=1",
        "train.steps" + ".a" * 5000 + "=1",
        "train.steps" + ".a" * 12 + "=1",
        "k" * 5000,
        "k" * 5000 + "=1",
        "=1",
        "name=" + "y" * 100_000,
        'name="a\\u0000b"',
        "data.train=" + "z" * 5000,
        "data.subtitles=frame_" + "9" * 4000,
        "train.steps={a={a=1}}",
        "train.steps=1979-05-27",
        "train.steps=1\nclip=2",
        "train.seed=-1",
        f"data.seed={2**63}",
    ],
    ids=lambda text: text[:24],
)
def test_an_override_that_nobody_means_is_refused_in_a_short_sentence(override) -> None:
    refusal("tiny", override)


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        (".toml", "[train]\nsteps=" + "9" * 5000),
        (".toml", "[train]\nclip=1" + "0" * 400),
        (".toml", "x=" + "[" * 3000),
        (".toml", "a" + ".a" * 100_000 + "=1"),
        (".toml", 'base="' + "x" * 5000 + '"'),
        (".toml", 'base="\\u0000"'),
        (".toml", "#" * 2_000_000),
        (".json", '{"train":{"steps":' + "9" * 5000 + "}}"),
        (".json", "[" * 100_000),
        (".json", '{"a":' * 5000 + "1" + "}" * 5000),
        (".json", '{"train":{"clip":1e400}}'),
        (".json", '{"model":{"vit":{"width":1e300}}}'),
        (".json", '{"' + "k" * 100_000 + '":1}'),
        (".json", '{"train":{"llm":{"learning_rate":NaN}}}'),
        (".json", '{"train":null}'),
    ],
    ids=lambda text: text[:24],
)
def test_a_file_that_nobody_means_is_refused_in_a_short_sentence(tmp_path, suffix, text) -> None:
    path = tmp_path / f"mine{suffix}"
    path.write_text(text)
    refusal(str(path))


@pytest.mark.parametrize(
    "name", ["x" * 5000, "x" * 5000 + ".toml", "a/" * 3000 + "x.json", "", "."]
)
def test_a_config_that_is_no_name_of_a_file_is_refused(name) -> None:
    refusal(name)


def test_a_pipe_is_no_config_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "mine.toml")
    assert "is no regular file" in refusal(str(tmp_path / "mine.toml"))


def test_options_of_thousands_of_letters_are_not_repeated_in_full(capsys) -> None:
    parser = Parser(prog="x")
    parser.add_argument("--count", type=int)
    with pytest.raises(SystemExit) as left:
        parser.parse_args(["--count", "9" * 5000])
    assert left.value.code == 2
    assert "invalid int value" in (message := capsys.readouterr().err) and len(message) < 400


@pytest.mark.parametrize("value", [-1, 2**63, "1.5"])
def test_a_seed_is_a_whole_number_of_63_bits(value, capsys) -> None:
    parser = Parser()
    parser.add_argument("--seed", type=seed)
    with pytest.raises(SystemExit):
        parser.parse_args([f"--seed={value}"])
    assert "is not a seed; write a whole number from 0 to 2^63 - 1" in capsys.readouterr().err
    assert parser.parse_args([f"--seed={LARGEST_SEED}"]).seed == LARGEST_SEED


def test_large_seeds_are_taken_and_all_bits_count() -> None:
    seeds = (5, 2**32 + 5, 2**40 + 5, LARGEST_SEED)
    config = [load_config("tiny", [f"train.seed={s}", f"data.seed={s}"]) for s in seeds]
    assert [c.train.seed for c in config] == list(seeds)
    keys = {tuple(jax.random.key_data(key_of_seed(s)).tolist()) for s in seeds}
    assert len(keys) == len(seeds)
    assert key_of_seed(5) == jax.random.key(5)


def test_large_seeds_order_the_data() -> None:
    orders = [
        MixtureOrder([100, 100], [0.5, 0.5], seed=number) for number in (5, 2**32 + 5, LARGEST_SEED)
    ]
    assert len({tuple(order[place].index for place in range(20)) for order in orders}) == 3


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("red", "'red'"),
        (7, "7"),
        (None, "None"),
        ([1, (2,), {"a": {3}}], "[1, (2,), {'a': {3}}]"),
        ("x" * 5000, "'" + "x" * 199 + "... (5000 letters)"),
        (10**6000, "a number of about 6001 digits"),
        (np.zeros(3), "a value of type ndarray"),
    ],
    ids=lambda value: str(value)[:20] if not isinstance(value, int) else "",
)
def test_a_value_in_a_message_is_its_beginning(value, text) -> None:
    assert shorten(value) == text


def test_what_is_deep_huge_or_holds_itself_is_shown_in_little_time() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    itself: list[Any] = []
    itself.append(itself)
    for value in (deep, itself, ["x" * 10**6] * 10**5, dict.fromkeys(range(10**5), "y" * 10**5)):
        assert len(shorten(value)) < 240
    while deep:  # or Python's own end of it would be as deep
        deep = deep[0]


def test_words_of_a_message_are_cut_in_their_middle() -> None:
    assert shorten_words("short words stay") == "short words stay"
    cut = shorten_words(f"'{'a' * 3000}/end' is no folder")
    assert len(cut) < 230 and cut.startswith("'aaa") and cut.endswith("/end' is no folder")
