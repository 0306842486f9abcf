"""Configurations: shipped setups, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from config_cases import LLMS, OTHERS, SETUPS, P, refusal

from stts_jax.config import (
    SPECIAL_TOKENS,
    PruneConfig,
    config_names,
    files,
    load_config,
    override,
    replace,
)

# The published models (the reference's model_configs.py and the released checkpoints).
VIT = {
    "image_size": 378,
    "patch_size": 14,
    "grid": 27,
    "patches": 729,
    "patch_dim": 588,
    "width": 1152,
    "heads": 16,
    "head_dim": 72,
    "mlp_width": 4304,
    "layers": 27,
    "feature_layers": (-3, -9),
    "resolved_feature_layers": (24, 18),
    "depth": 25,
    "positions": 729,
    "norm_epsilon": 1e-6,
}
CONNECTOR = {
    "heads": 16,
    "head_dim": 72,
    "width": 1152,
    "pooling_attention_mask": True,
    "image_pooling": 2,
}
CONNECTOR_MLP_WIDTH = {"molmo2_4b": 9728, "molmo2_8b": 12288, "molmo2_o_7b": 11008}
LLM = {
    "extra_vocab_size": 128,
    "head_dim": 128,
    "norm_epsilon": 1e-6,
    "max_positions": 36864,
    "residual_dropout": 0.1,
    "response_residual_dropout": 0.0,
}
OLMO3_YARN = {
    "layers": (3, 7, 11, 15, 19, 23, 27, 31),
    "factor": 8.0,
    "original_length": 8192,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
}
PRUNE = {
    "prune_at": 3,
    "pooling": 3,
    "pruning_in_scorer": True,
    "prune_from_frame": 0,
    "rescale_bias_min": np.exp(-2.0),
    "loss_coefficient": 0.5,
    "new_reference_threshold": 0.85,
    "layout": "stream",
    "protect_first_frame": False,
}


# Of which adapters or the scorer alone are trained.
PARTLY_TRAINED = (
    *("molmo2_4b_lora", "molmo2_4b_qlora", "molmo2_4b_scorer_only"),
    *("molmo2_8b_lora", "molmo2_8b_qlora", "tiny_lora"),
)


def assert_has(config: Any, expected: dict[str, Any]) -> None:
    assert {name: getattr(config, name) for name in expected} == expected


class TestShippedSetups:
    def test_these_are_shipped(self) -> None:
        assert set(config_names()) == {*SETUPS, *OTHERS, *PARTLY_TRAINED}

    @pytest.mark.parametrize("name", [*SETUPS, *OTHERS, *PARTLY_TRAINED])
    def test_each_is_named_after_its_file(self, name: str) -> None:
        assert load_config(name).name == name

    @pytest.mark.parametrize("name", PARTLY_TRAINED)
    def test_setups_of_one_device_are_of_the_models_that_they_are_named_after(
        self, name: str
    ) -> None:
        config = load_config(name)
        whole = load_config("tiny", ["model.prune.topk=0.7"])
        whole = whole if name == "tiny_lora" else load_config(f"{name[:9]}_stts_50")
        assert config.model == whole.model
        assert config.train.has_base

    @pytest.mark.parametrize("name", SETUPS)
    def test_published_numbers(self, name: str) -> None:
        size, method, topk = SETUPS[name]
        model = load_config(name).model
        assert_has(model.vit, VIT)
        assert_has(model.connector, {**CONNECTOR, "mlp_width": CONNECTOR_MLP_WIDTH[size]})
        assert_has(model.llm, {**LLM, **LLMS[size]})
        assert_has(model.prune, {**PRUNE, "method": method, "topk": topk})
        assert model.tokens_per_frame == P

    def test_olmo3_stretches_some_layers(self) -> None:
        yarn = load_config("molmo2_o_7b").model.llm.yarn
        assert yarn is not None
        assert_has(yarn, OLMO3_YARN)

    def test_special_tokens_follow_the_vocabulary(self) -> None:
        llm = load_config("molmo2_4b").model.llm
        assert llm.special_token("<im_patch>") == 151938
        assert [llm.special_token(token) - llm.vocab_size for token in SPECIAL_TOKENS] == [
            *range(10)
        ]

    def test_tiny_prunes_by_score(self) -> None:
        model = load_config("tiny").model
        assert (model.prune.method, model.prune.topk, model.tokens_per_frame) == ("scorer", 0.5, 9)
        assert model.prune.last_dense_layer < model.vit.depth == 4


class TestRefusals:
    """Each names the key, what is wrong with it and the remedy."""

    def test_unknown_key_names_the_closest(self) -> None:
        message = refusal("tiny", "model.prune.topkk=0.3")
        assert message == "unknown setting 'model.prune.topkk'; did you mean 'topk'?"

    def test_unknown_key_like_none_lists_those_known(self) -> None:
        message = refusal("tiny", "xyzzy=1")
        assert message == "unknown setting 'xyzzy'; known are name, model, data, train, eval"

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("train.steps=1.5", "train.steps is 1.5; it must be of type int"),
            ("train.steps=true", "train.steps is True; it must be of type int"),
            ("train.clip=true", "train.clip is True; it must be of type float"),
            ("model.prune.topk=[0.3]", "model.prune.topk is [0.3]; it must be of type float"),
            ("model.prune.topk=nan", "model.prune.topk is nan; it must be a finite number"),
            ("data.cache_frames=1", "data.cache_frames is 1; it must be of type bool"),
            ("data.train=false", "data.train is False; it must be of type str"),
            ("model.vit=3", "model.vit is 3; it must be a table of settings"),
            (
                "model.vit.feature_layers=-1",
                "model.vit.feature_layers is -1; it must be a list, [1, 2]",
            ),
            (
                "model.prune.method=best",
                "model.prune.method is 'best'; choose from none, scorer, heuristic, easy, random, "
                "tome, evs",
            ),
        ],
    )
    def test_wrong_type(self, override: str, message: str) -> None:
        assert refusal("tiny", override) == message

    def test_prune_layer_past_the_last_block(self) -> None:
        message = refusal("molmo2_4b_stts_30", "model.prune.prune_at=24")
        assert message.startswith("model.prune.prune_at is 24, but the ViT has only 25 blocks")
        assert message.endswith("use at most 23")
        load_config("molmo2_4b_stts_30", ["model.prune.prune_at=23"])

    def test_baselines_need_one_block_less(self) -> None:
        heuristic = "model.prune.method=heuristic"
        load_config("molmo2_4b_stts_30", [heuristic, "model.prune.prune_at=24"])
        message = refusal("molmo2_4b_stts_30", heuristic, "model.prune.prune_at=25")
        assert message.endswith("use at most 24")

    def test_prune_layer_does_not_matter_without_a_method(self) -> None:
        load_config("molmo2_4b", ["model.prune.prune_at=24"])

    @pytest.mark.parametrize("pooling", [2, 4, 26, 28])
    def test_grid_that_pooling_does_not_fit(self, pooling: int) -> None:
        message = refusal("molmo2_4b", f"model.prune.pooling={pooling}")
        assert message.startswith(f"model.prune.pooling is {pooling}, ")
        assert "27 x 27 patches" in message

    def test_image_that_patches_do_not_tile(self) -> None:
        message = refusal("molmo2_4b", "model.vit.image_size=380")
        assert message.startswith("model.vit.image_size is 380, which patches of 14 pixels")

    def test_feature_layer_that_does_not_exist(self) -> None:
        message = refusal("molmo2_4b", "model.vit.feature_layers=[-3, 27]")
        assert message.endswith("there are only 27 layers; choose from -27 to 26")

    def test_two_ratios_that_disagree(self) -> None:
        message = refusal("molmo2_4b_stts_30", "data.topk=0.5")
        assert message.startswith("data.topk is 0.5 but model.prune.topk is 0.3")
        load_config("molmo2_4b_stts_30", ["data.topk=0.3"])

    def test_ratio_without_a_method(self) -> None:
        message = refusal("molmo2_4b", "model.prune.topk=0.3")
        assert message.startswith("model.prune.topk is 0.3 but model.prune.method is 'none'")

    @pytest.mark.parametrize("topk", [-0.1, 1.0, 30])
    def test_ratio_that_is_no_share(self, topk: float) -> None:
        assert "the fraction removed, from 0 to below 1" in refusal(
            "molmo2_4b_stts_30", f"model.prune.topk={topk}"
        )

    @pytest.mark.parametrize(
        ("override", "key"),
        [
            ("model.llm.heads=7", "model.llm.heads"),
            ("model.llm.head_dim=15", "model.llm.head_dim"),
            ("model.llm.extra_vocab_size=9", "model.llm.extra_vocab_size"),
            ("model.vit.positions=63", "model.vit.positions"),
            ("model.connector.width=0", "model.connector.width"),
            ("data.max_frames=9", "data.max_frames"),
            ("data.max_bad_share=1.5", "data.max_bad_share"),
            ("data.seed=-1", "data.seed"),
            ("data.decoder=decord", "data.decoder"),
            ("data.subtitles=frame_", "data.subtitles"),
            ("model.connector.image_pooling=7", "model.connector.image_pooling"),
            ("model.llm.rope_theta=1", "model.llm.rope_theta"),
            ("train.steps=0", "train.steps"),
            ("train.weight_decay=-1", "train.weight_decay"),
            ("train.z_loss=-1", "train.z_loss"),
            ("train.beta2=1.0", "train.beta2"),
            ("train.llm.learning_rate=-1", "train.llm: learning_rate"),
            ("eval.top_p=0.0", "eval.top_p"),
        ],
    )
    def test_impossible_number_names_its_key(self, override: str, key: str) -> None:
        assert refusal("tiny", override).startswith(f"{key} ")

    def test_override_without_equals_sign(self) -> None:
        message = refusal("tiny", "train.steps")
        assert message == "override 'train.steps' has no '='; write section.key=value"

    def test_unknown_name_lists_the_shipped_ones(self) -> None:
        message = refusal("molmo2_5b")
        assert "no config named 'molmo2_5b'" in message
        assert all(name in message for name in config_names())

    def test_missing_file(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.toml"
        assert refusal(str(path)) == f"config file '{path}' does not exist; check the path"

    def test_folder_in_place_of_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "mine.toml").mkdir()
        message = refusal(str(tmp_path / "mine.toml"))
        assert message.endswith("mine.toml' is a folder; give the path of a .toml or .json file")

    @pytest.mark.parametrize("suffix", [".toml", ".json"])
    def test_file_that_cannot_be_read(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"mine{suffix}"
        path.write_text("[model\n")
        assert refusal(str(path)).startswith(f"config file '{path}' cannot be read: ")

    def test_required_setting(self) -> None:
        message = refusal("molmo2_4b", "model.llm.yarn.factor=4")
        assert message == "model.llm.yarn lacks 'layers'; set it"

    def test_the_configuration_is_frozen(self) -> None:
        with pytest.raises(dataclasses.FrozenInstanceError):
            load_config("tiny").name = "other"  # type: ignore[misc]


FORMER, NOW = "model.prune.packing", "model.prune.layout"


def test_a_former_name_of_a_setting_is_understood_and_told_of_once(tmp_path, caplog):
    old = tmp_path / "old.json"
    old.write_text(json.dumps({"model": {"prune": {"packing": "first_fit"}}}))
    files._tell_of_former.cache_clear()
    for config in (
        load_config(str(old)),
        load_config("tiny", [f"{FORMER}=first_fit"]),
        override(load_config("tiny"), [f"{FORMER}=first_fit"]),
    ):
        assert config.model.prune.layout == "first_fit"
    (told,) = [record.getMessage() for record in caplog.records]
    assert told == f"the setting {FORMER} is called {NOW} now"


def test_a_former_name_and_the_one_of_now_are_applied_in_order(tmp_path):
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text(json.dumps({"model": {"prune": {"packing": "first_fit"}}}))
    new.write_text(json.dumps({"base": "old.json", "model": {"prune": {"layout": "stream"}}}))
    for config in (
        load_config(str(new)),
        load_config("tiny", [f"{FORMER}=first_fit", f"{NOW}=stream"]),
        load_config(str(old), [f"{NOW}=stream"]),
    ):
        assert config.model.prune.layout == "stream"


def test_a_folder_exported_under_the_former_name_is_read():
    stated = dataclasses.asdict(load_config("tiny").model.prune)
    stated["packing"] = "first_fit"
    del stated["layout"]
    assert replace(PruneConfig(), stated).layout == "first_fit"
