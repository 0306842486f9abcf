"""Overrides, configuration files and replaced fields."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from config_cases import OTHERS, SETUPS, refusal

from stts_jax.config import (
    Config,
    ConfigError,
    config_from_dict,
    load_config,
    replace,
)


class TestOverrides:
    @pytest.mark.parametrize(
        ("override", "value"),
        [
            ("model.prune.topk=0.25", 0.25),
            ("train.clip=2", 2.0),
            ("train.llm.learning_rate=3e-4", 3e-4),
            ("train.steps=12", 12),
            ("data.cache_frames=false", False),
            ("model.vit.feature_layers=[-1, -2, 3]", (-1, -2, 3)),
            ("model.prune.method=easy", "easy"),
            ("data.tokenizer=some folder/tokenizer.json", "some folder/tokenizer.json"),
            ("data.tokenizer='quoted.json'", "quoted.json"),
            ("name=7", "7"),
            ("data.topk=0.5", 0.5),
            ("data.topk=none", None),
            ("model.llm.yarn=none", None),
            (" train.seed = 5 ", 5),
        ],
    )
    def test_value_is_parsed(self, override: str, value: Any) -> None:
        found: Any = load_config("tiny", [override])
        for part in override.partition("=")[0].strip().split("."):
            found = getattr(found, part)
        assert found == value
        assert type(found) is type(value)

    def test_none_takes_away_what_the_setup_has(self) -> None:
        assert load_config("molmo2_o_7b", ["model.llm.yarn=none"]).model.llm.yarn is None

    def test_last_one_counts(self) -> None:
        assert load_config("tiny", ["train.steps=1", "train.steps=2"]).train.steps == 2

    def test_nothing_else_changes(self) -> None:
        before, after = load_config("tiny"), load_config("tiny", ["train.llm.warmup=7"])
        expected = dataclasses.asdict(before)
        expected["train"]["llm"]["warmup"] = 7
        assert dataclasses.asdict(after) == expected

    def test_a_method_may_be_set_together_with_its_ratio(self) -> None:
        overrides = ["model.prune.method=random", "model.prune.topk=0.4"]
        prune = load_config("molmo2_4b", overrides).model.prune
        assert (prune.method, prune.topk) == ("random", 0.4)


class TestFiles:
    def test_base_chain(self, tmp_path: Path) -> None:
        (tmp_path / "first.toml").write_text(
            'base = "tiny"\nname = "first"\n[train]\nsteps = 5\nclip = 3.0\n'
        )
        (tmp_path / "second.toml").write_text('base = "first.toml"\n[train]\nsteps = 6\n')
        config = load_config(str(tmp_path / "second.toml"))
        assert (config.name, config.train.steps, config.train.clip) == ("first", 6, 3.0)
        assert config.model == load_config("tiny").model

    def test_base_that_is_missing(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.toml"
        path.write_text('base = "gone.toml"\n')
        assert f"'{tmp_path / 'gone.toml'}' does not exist" in refusal(str(path))

    @pytest.mark.parametrize("name", [*SETUPS, *OTHERS])
    def test_round_trip(self, tmp_path: Path, name: str) -> None:
        config = load_config(name)
        config.save(tmp_path / "run" / "new")
        assert load_config(str(tmp_path / "run" / "new" / "config.json")) == config

    def test_saved_file_says_everything(self, tmp_path: Path) -> None:
        config = load_config("tiny", ["model.prune.topk=0.3"])
        config.save(tmp_path)
        saved = json.loads((tmp_path / "config.json").read_text())
        assert saved["model"]["prune"]["topk"] == 0.3
        assert saved["train"]["beta2"] == 0.95
        assert config_from_dict(saved) == config

    def test_saved_file_takes_overrides(self, tmp_path: Path) -> None:
        load_config("tiny").save(tmp_path)
        config = load_config(str(tmp_path / "config.json"), ["eval.batch_rows=3"])
        assert config == load_config("tiny", ["eval.batch_rows=3"])

    def test_every_step_is_logged_but_those_of_the_tiny_model(self) -> None:
        assert load_config("molmo2_4b_stts_50").train.log_every == 1
        assert load_config("tiny").train.log_every == 10

    def test_an_empty_table_gives_the_defaults(self) -> None:
        assert config_from_dict({}) == Config()


class TestReplace:
    def test_dotted_keys_of_any_part(self) -> None:
        config = load_config("tiny")
        changed = replace(config, {"model.prune.topk": 0.3, "train.steps": 2})
        assert (changed.model.prune.topk, changed.train.steps) == (0.3, 2)
        assert replace(config.model, {"prune.topk": 0.3}) == changed.model
        assert replace(config.model.prune, {"topk": 0.3}) == changed.model.prune

    def test_the_original_stays(self) -> None:
        config = load_config("tiny")
        replace(config, {"model.prune.topk": 0.3})
        assert config == load_config("tiny")

    def test_it_is_checked_again(self) -> None:
        with pytest.raises(ConfigError, match="wider than the grid"):
            replace(load_config("tiny").model, {"prune.pooling": 16})
        with pytest.raises(ConfigError, match="did you mean 'pooling'"):
            replace(load_config("tiny").model, {"prune.poolin": 4})

    def test_a_part_that_was_not_there(self) -> None:
        llm = replace(load_config("molmo2_4b").model.llm, {"yarn.layers": [1, 2]})
        assert llm.yarn is not None
        assert (llm.yarn.layers, llm.yarn.factor) == ((1, 2), 8.0)
