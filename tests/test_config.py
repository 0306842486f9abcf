"""Configurations and the counts made of them: `stts_jax.config`, `stts_jax.budget`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens_folder import goldens_dir

from stts_jax.budget import (
    Budget,
    MultimodalType,
    batch_arrays,
    row_budget,
    surviving_patches,
    surviving_tokens,
    tokens_to_prune,
    video_budget,
)
from stts_jax.config import (
    SPECIAL_TOKENS,
    Config,
    ConfigError,
    PruneConfig,
    config_from_dict,
    config_names,
    load_config,
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
QWEN3 = {
    "vocab_size": 151936,
    "layers": 36,
    "heads": 32,
    "kv_heads": 8,
    "norm_position": "pre",
    "qk_norm": "head",
    "yarn": None,
}
LLMS = {
    "molmo2_4b": {
        **QWEN3,
        "width": 2560,
        "mlp_width": 19456 // 2,
        "rope_theta": 5e6,
        "tied_head": True,
    },
    "molmo2_8b": {
        **QWEN3,
        "width": 4096,
        "mlp_width": 24576 // 2,
        "rope_theta": 1e6,
        "tied_head": False,
    },
    "molmo2_o_7b": {
        "vocab_size": 100278,
        "layers": 32,
        "heads": 32,
        "kv_heads": 32,
        "norm_position": "post",
        "qk_norm": "full",
        "width": 4096,
        "mlp_width": 22016 // 2,
        "rope_theta": 5e5,
        "tied_head": False,
    },
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
    "packing": "stream",
    "protect_first_frame": False,
}
SIZES = tuple(LLMS)
SETUPS = {
    **{size: (size, "none", 0.0) for size in SIZES},
    **{
        f"{size}_stts_{percent}": (size, "scorer", percent / 100)
        for size in SIZES
        for percent in (30, 40, 50)
    },
}
VIDEO = int(MultimodalType.VIDEO)
P = 81


def assert_has(config: Any, expected: dict[str, Any]) -> None:
    assert {name: getattr(config, name) for name in expected} == expected


def refusal(name: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(name, overrides)
    return str(caught.value)


def scorer(topk: float, **settings: Any) -> PruneConfig:
    return PruneConfig(method="scorer", topk=topk, **settings)


def counts(frames: list[int], prune: PruneConfig, kind: int = VIDEO) -> list[int]:
    n = np.array(frames, np.int32)
    return tokens_to_prune(n, np.full_like(n, kind), prune, P).tolist()


class TestShippedSetups:
    def test_these_are_shipped(self) -> None:
        assert set(config_names()) == {*SETUPS, "tiny", "tiny_pictures"}

    @pytest.mark.parametrize("name", [*SETUPS, "tiny", "tiny_pictures"])
    def test_each_is_named_after_its_file(self, name: str) -> None:
        assert load_config(name).name == name

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
                "model.prune.method is 'best'; choose from none, scorer, heuristic, easy, random",
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

    @pytest.mark.parametrize("name", [*SETUPS, "tiny", "tiny_pictures"])
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


class TestTokensToPrune:
    def test_the_product_is_float32(self) -> None:
        """Double precision gives 1700 and 8019."""
        assert counts([30], scorer(0.7)) == [1701]
        assert counts([330], scorer(0.3)) == [8018]

    def test_it_is_cut_towards_zero(self) -> None:
        assert counts([1, 2, 3], scorer(0.5)) == [40, 81, 121]
        assert counts([1], scorer(0.3)) == [24]

    @pytest.mark.parametrize("kind", [-1, *(k for k in MultimodalType if k != VIDEO)])
    def test_only_videos_lose_tokens(self, kind: int) -> None:
        assert counts([0, 1, 8, 64], scorer(0.5), kind) == [0, 0, 0, 0]

    def test_padding_and_empty_examples_lose_none(self) -> None:
        assert counts([-1, 0], scorer(0.5)) == [0, 0]

    def test_no_method_removes_nothing(self) -> None:
        assert counts([-1, 0, 1, 64], PruneConfig()) == [0, 0, 0, 0]

    def test_every_method_removes_the_same(self) -> None:
        for method in ("heuristic", "easy", "random"):
            assert counts([30], PruneConfig(method=method, topk=0.7)) == [1701]

    def test_prune_from_frame_shortens_the_count(self) -> None:
        prune = scorer(0.5, prune_from_frame=8)
        assert counts([1, 8, 9, 10, 18], prune) == [0, 0, 40, 81, 405]

    def test_protected_first_frame_is_never_asked_for(self) -> None:
        """One frame has nothing else to give, two frames at 0.7 only 81 of the 113 asked for."""
        assert counts([1, 2, 3], scorer(0.7)) == [56, 113, 170]
        assert counts([1, 2, 3], scorer(0.7, protect_first_frame=True)) == [0, 81, 162]
        assert counts([1, 2, 3], scorer(0.5, protect_first_frame=True)) == [0, 81, 121]

    @pytest.mark.parametrize("protect_first_frame", [False, True])
    @pytest.mark.parametrize("prune_from_frame", [0, 8])
    @pytest.mark.parametrize("topk", [0.1, 0.3, 0.5, 0.7])
    def test_numpy_and_jax_agree(
        self, topk: float, prune_from_frame: int, protect_first_frame: bool
    ) -> None:
        prune = scorer(
            topk, prune_from_frame=prune_from_frame, protect_first_frame=protect_first_frame
        )
        n = np.tile(np.arange(385, dtype=np.int32)[:, None], (1, 5))
        kinds = np.broadcast_to(np.arange(-1, 4, dtype=np.int32), n.shape)
        expected = tokens_to_prune(n, kinds, prune, P)
        eager = tokens_to_prune(jnp.asarray(n), jnp.asarray(kinds), prune, P)
        jitted = jax.jit(lambda n, kinds: tokens_to_prune(n, kinds, prune, P))(n, kinds)
        assert expected.dtype == eager.dtype == jitted.dtype == np.int32
        np.testing.assert_array_equal(expected, eager)
        np.testing.assert_array_equal(expected, jitted)

    def test_counts_that_the_reference_gave(self) -> None:
        recorded = np.load(goldens_dir() / "prune_counts.npz")
        n = recorded["num_images"].astype(np.int32)
        cases = json.loads(str(recorded["meta"]))
        assert cases
        for case in cases:
            prune = scorer(case["topk"], prune_from_frame=case["prune_from_frame"])
            found = tokens_to_prune(n, np.full_like(n, VIDEO), prune, P)
            np.testing.assert_array_equal(found, recorded[str(case["i"])], err_msg=str(case))


class TestBudgets:
    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize(
        ("suffix", "tokens"),
        [("", 15670), ("_stts_30", 12560), ("_stts_40", 11524), ("_stts_50", 10486)],
    )
    def test_rows_of_the_paper(self, size: str, suffix: str, tokens: int) -> None:
        """Row lengths that the reference trains 128 frames with, at each ratio."""
        config = load_config(size + suffix)
        budget = row_budget(config.model, config.data)
        assert (budget.frames, budget.examples) == (128, 2)
        assert (budget.tokens, budget.tokens_before) == (tokens, 15670)
        assert (budget.text, budget.visual_before) == (5302, 128 * P)
        assert budget.patches == budget.visual * 9

    def test_survivors_of_a_video(self) -> None:
        model = load_config("molmo2_4b_stts_30", ["model.prune.topk=0.7"]).model
        assert surviving_tokens(30, model) == 30 * P - 1701
        assert surviving_patches(30, model) == (30 * P - 1701) * 9

    def test_patches_stay_when_pruned_only_at_the_connector(self) -> None:
        model = load_config("molmo2_4b_stts_50", ["model.prune.pruning_in_scorer=false"]).model
        assert surviving_patches(10, model) == 10 * 729
        assert surviving_tokens(10, model) == 10 * P - 405

    def test_row_of_equal_videos(self) -> None:
        model = load_config("molmo2_4b_stts_50").model
        assert video_budget(model, frames=5, videos=3, text_tokens=100) == Budget(
            frames=15,
            examples=3,
            patches=3 * (5 * P - 202) * 9,
            visual=3 * (5 * P - 202),
            visual_before=15 * P,
            tokens=3 * (5 * P - 202) + 100,
            tokens_before=15 * P + 100,
        )

    def test_without_pruning_before_and_after_are_alike(self) -> None:
        config = load_config("molmo2_4b")
        budget = row_budget(config.model, config.data)
        assert (budget.visual, budget.tokens) == (budget.visual_before, budget.tokens_before)
        assert budget.patches == 128 * 729

    def test_arrays_of_a_batch(self) -> None:
        config = load_config("tiny")
        budget = row_budget(config.model, config.data)
        arrays = batch_arrays(budget, config.model, rows=4)
        shapes = {name: shape for name, (shape, _) in arrays.items()}
        assert shapes["images"] == (4, 8, 36, 192)
        assert shapes["num_images"] == shapes["multimodal_type"] == (4, 1)
        assert shapes["token_pooling"] == (4, 72, 4)
        assert shapes["input_ids"] == shapes["loss_masks"] == (4, budget.tokens_before) == (4, 248)
        assert arrays["images"][1] == np.uint8
        assert arrays["loss_masks"][1] == np.float32
