"""Adapters are merged by the converter, and taken to PEFT's format and back."""

from __future__ import annotations

import json

import numpy as np
import pytest
from adapter_cases import write_adapters
from safetensors.numpy import load_file, save_file
from training_cases import fresh_state, small_config

from convert.__main__ import main
from convert.cache import local_adapter
from convert.names import HF, name_table
from convert.request import Request, carry_out
from convert.tensor_reader import ConvertError
from stts_jax.parallel.parameters import named_parameters
from stts_jax.training.checkpointing.load import load_model, save_model
from stts_jax.training.checkpointing.run_folder import config_of, find_checkpoint
from stts_jax.training.checkpointing.stored_arrays import open_arrays

PREFIX = "base_model.model."


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "run"
    save_model(fresh_state().model, small_config(), folder)
    return folder


@pytest.fixture(scope="module")
def run(base, tmp_path_factory):
    targets = 'train.lora.targets=["llm", "vit", "connector"]'
    return write_adapters(tmp_path_factory.mktemp("run") / "run", base, targets)


@pytest.fixture(scope="module")
def peft(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("peft") / "adapter"
    assert main([str(run), str(folder), "--to", "peft"]) == 0
    return folder


def stored(folder):
    arrays = open_arrays(find_checkpoint(folder) / "model")
    return {name: np.asarray(array.read().result()) for name, array in arrays.items()}


def same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)


def test_adapters_come_back_from_peft_as_they_were(base, run, peft, tmp_path):
    assert main([str(peft), str(tmp_path / "back"), "--base", str(base)]) == 0
    same(stored(tmp_path / "back"), stored(run))
    ours, theirs = (config_of(folder).train.lora for folder in (run, tmp_path / "back"))
    assert (ours.rank, ours.alpha, ours.layers) == (theirs.rank, theirs.alpha, theirs.layers)


def test_a_folder_of_peft_has_its_two_files_and_the_scorer(peft):
    names = {path.name for path in peft.iterdir()}
    assert names == {
        *("adapter_config.json", "adapter_model.safetensors"),
        *("scorer.safetensors", "stts_config.json"),
    }
    config = json.loads((peft / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 2, 16.0)
    module = "model.language_model.layers.1.self_attn.q_proj"
    assert module in config["target_modules"]
    tensors = load_file(peft / "adapter_model.safetensors")
    assert tensors[f"{PREFIX}{module}.lora_A.weight"].shape == (2, 24)
    assert len(tensors) == 2 * len(config["target_modules"])


def test_a_converted_run_is_the_merged_model(run, tmp_path, report_error):
    assert main([str(run), str(tmp_path / "merged")]) == 0
    ours, theirs = (
        named_parameters(load_model(folder)[0]) for folder in (run, tmp_path / "merged")
    )
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        error = np.abs(array - theirs[name]).max()
        report_error("merged by the converter", error, 1e-6)
        assert error <= 1e-6, name


def test_commands_take_a_folder_of_peft(base, run, peft, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    said = []
    copy = local_adapter(peft, base, said.append)
    same(stored(copy), stored(run))
    assert "is an adapter of PEFT; converting it once" in said[0]
    assert local_adapter(peft, base) == copy
    assert local_adapter(run, base) == run


def test_whoever_asked_is_told_that_the_base_is_converted_first(peft, tmp_path, monkeypatch):
    def told(folder, notice=print):
        notice(f"converting {folder.name}")
        raise ConvertError("enough")

    said = []
    monkeypatch.setattr("convert.request.local_checkpoint", told)
    with pytest.raises(ConvertError, match="enough"):
        carry_out(Request(peft, tmp_path / "ours", base=tmp_path / "hf"), said.append)
    assert said == ["converting hf"]


def fused(folder, model, rank):
    """An adapter of a class that fuses query, key and value, and up and gate."""
    rng = np.random.default_rng(1)
    tensors = {}
    widths: dict[str, int] = {}
    for name in name_table(model):
        if name.rows and name.ours.startswith("llm.blocks."):
            widths[name.hf] = max(widths.get(name.hf, 0), name.rows[1])
    for template, width in widths.items():
        for layer in range(model.llm.layers):
            module = PREFIX + template.format(layer=layer).removesuffix(".weight")
            a, b = rng.normal(size=(rank, model.llm.width)), rng.normal(size=(width, rank))
            tensors[f"{module}.lora_A.weight"] = a.astype(np.float32)
            tensors[f"{module}.lora_B.weight"] = b.astype(np.float32)
    write_peft(folder, tensors, r=rank, lora_alpha=6)
    return tensors


def write_peft(folder, tensors, **settings):
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none"} | settings
    (folder / "adapter_config.json").write_text(json.dumps(config))


def test_the_parts_of_a_fused_layer_share_one_factor(base, tmp_path):
    model = small_config().model
    tensors = fused(tmp_path / "peft", model, rank=3)
    assert main([str(tmp_path / "peft"), str(tmp_path / "ours"), "--base", str(base)]) == 0
    arrays = stored(tmp_path / "ours")
    for name in name_table(model):
        if name.rows and name.ours.startswith("llm.blocks."):
            template, (start, stop) = name.in_column(HF)
            layer = name.ours.removesuffix(".kernel")
            for index in range(model.llm.layers):
                module = PREFIX + template.format(layer=index).removesuffix(".weight")
                a, b = (tensors[f"{module}.lora_{part}.weight"] for part in "AB")
                np.testing.assert_array_equal(arrays[f"{layer}.lora_a"][index], a.T)
                np.testing.assert_array_equal(arrays[f"{layer}.lora_b"][index], b[start:stop].T)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"peft_type": "IA3"}, "has peft_type='IA3'; only peft_type=LORA can be read"),
        ({"use_dora": True}, "has use_dora=True"),
        ({"r": 0}, "has r=0; it must be above 0"),
        ({"modules_to_save": ["lm_head"]}, "has modules_to_save=['lm_head']"),
    ],
)
def test_what_is_no_lora_of_dense_layers_is_refused(base, tmp_path, capsys, settings, said):
    write_peft(tmp_path / "peft", {"a": np.zeros(1, np.float32)}, **settings)
    assert main([str(tmp_path / "peft"), str(tmp_path / "out"), "--base", str(base)]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_adapters_of_unknown_modules_are_refused(base, tmp_path, capsys):
    pair = {f"{PREFIX}lm_head.lora_{part}.weight": np.zeros((2, 2), np.float32) for part in "AB"}
    write_peft(tmp_path / "peft", pair)
    assert main([str(tmp_path / "peft"), str(tmp_path / "out"), "--base", str(base)]) == 2
    assert "adapts ['lm_head'], which is no dense layer" in capsys.readouterr().err


def test_adapters_of_another_width_are_refused(base, tmp_path, capsys):
    module = f"{PREFIX}model.language_model.layers.0.self_attn.q_proj"
    pair = {f"{module}.lora_{part}.weight": np.zeros((2, 2), np.float32) for part in "AB"}
    write_peft(tmp_path / "peft", pair)
    assert main([str(tmp_path / "peft"), str(tmp_path / "out"), "--base", str(base)]) == 2
    assert "that of its base has (2, 24, 16)" in capsys.readouterr().err


def test_an_adapter_needs_its_base(peft, tmp_path, capsys):
    assert main([str(peft), str(tmp_path / "out")]) == 2
    assert "name its model with --base" in capsys.readouterr().err


def test_a_whole_model_has_no_adapters_to_take_out(base, tmp_path, capsys):
    assert main([str(base), str(tmp_path / "out"), "--to", "peft"]) == 2
    assert "has no adapters (train.lora.rank is 0)" in capsys.readouterr().err
