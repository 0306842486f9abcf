"""Conversions that need no torch: Hugging Face folders and our own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
from convert_cases import SCORED, UNTIED, hf_arrays, native_arrays, write_hf
from convert_commands import FIRST, INDEX, converted, refused, same
from model_cases import SIZES, VIT, small_model_config
from native_arrays import to_native
from safetensors.numpy import load_file, save_file

from convert import hf_folder, orbax_folder, tensor_reader
from convert.__main__ import main
from convert.measure import random_tensors
from convert.names import COLUMNS, HF, HF_HEAD, NATIVE, name_table
from convert.orbax_folder import STORED_BLOCK_BYTES, STORED_PARTS, stored_blocks
from convert.pipeline import abstract_parameters, plan
from convert.sources import Source
from stts_jax.config import load_config
from stts_jax.model.video_language_model import VideoLanguageModel
from stts_jax.parallel.mesh import make_mesh
from stts_jax.parallel.parameters import named_parameters
from stts_jax.training.checkpointing.load import initialize_from, load_model
from stts_jax.training.checkpointing.run_folder import MODEL, find_checkpoint
from stts_jax.training.checkpointing.stored_arrays import open_arrays


@pytest.mark.parametrize("config", [SCORED, UNTIED], ids=["tied, scorer", "untied, plain"])
def test_a_hugging_face_folder_becomes_ours_bit_for_bit(tmp_path: Path, config) -> None:
    model, saved = load_model(converted(tmp_path, config))
    assert same(to_native(model, name_table(config)), native_arrays(config))
    assert saved.model == config


def test_a_target_beside_the_working_folder_is_written(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert main([str(write_hf(tmp_path / "hf", UNTIED)), "../out"]) == 0
    assert load_model(tmp_path / "out")[1].model == UNTIED


@pytest.mark.parametrize("config", [SCORED, UNTIED], ids=["tied, scorer", "untied, plain"])
def test_there_and_back_again_is_bit_equal(tmp_path: Path, config) -> None:
    ours = converted(tmp_path, config)
    assert main([str(ours), str(tmp_path / "back"), "--to", "hf"]) == 0
    assert same(load_file(tmp_path / "back" / "model.safetensors"), hf_arrays(config))
    assert main([str(tmp_path / "back"), str(tmp_path / "again")]) == 0
    assert load_model(tmp_path / "again")[1].model == config


def test_a_large_folder_is_written_in_parts_with_an_index(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(hf_folder, "PART_BYTES", 10_000)
    source = write_hf(tmp_path / "hf", SCORED)
    assert main([str(source), str(tmp_path / "parts"), "--to", "hf"]) == 0
    index = json.loads((tmp_path / "parts" / INDEX).read_text())
    assert len(set(index["weight_map"].values())) > 3
    found = {}
    for file in set(index["weight_map"].values()):
        found |= load_file(tmp_path / "parts" / file)
    assert same(found, hf_arrays(SCORED))
    assert index["metadata"]["total_parameters"] == sum(a.size for a in found.values())


def test_bfloat16_in_and_out(tmp_path: Path) -> None:
    half = {k: v.astype(ml_dtypes.bfloat16) for k, v in hf_arrays(SCORED).items()}
    source = write_hf(tmp_path / "hf", SCORED, **half)
    for dtype in ("bfloat16", "float32"):
        target = tmp_path / dtype
        assert main([str(source), str(target), "--dtype", dtype]) == 0
        found = to_native(load_model(target)[0], name_table(SCORED))
        for name, array in native_arrays(SCORED).items():
            rounded = array.astype(ml_dtypes.bfloat16).astype(np.float32)
            assert np.array_equal(np.asarray(found[name], np.float32), rounded), name


def half_folder(folder: Path) -> Path:
    """Writes a folder that is bfloat16 but for the scorer."""
    half = {
        name: array if "scor" in name else array.astype(ml_dtypes.bfloat16)
        for name, array in hf_arrays(SCORED).items()
    }
    return write_hf(folder, SCORED, **half)


def test_a_converted_copy_keeps_the_type_of_each_parameter(tmp_path: Path) -> None:
    source, target = half_folder(tmp_path / "hf"), tmp_path / "ours"
    assert main([str(source), str(target)]) == 0
    stored = {
        name: array.dtype.name
        for name, array in open_arrays(find_checkpoint(target) / MODEL).items()
    }
    scorer = {name for name in stored if name.startswith("scorer.")}
    assert scorer and {stored[name] for name in scorer} == {"float32"}
    assert {stored[name] for name in stored if name not in scorer} == {"bfloat16"}
    assert main([str(target), str(tmp_path / "back"), "--to", "hf"]) == 0
    found, given = load_file(tmp_path / "back" / "model.safetensors"), loaded_parts(source)
    assert {name: array.dtype for name, array in found.items()} == {
        name: array.dtype for name, array in given.items()
    }
    assert same(found, given)
    assert json.loads((tmp_path / "back" / "config.json").read_text())["dtype"] == "bfloat16"


def loaded_parts(folder: Path) -> dict[str, np.ndarray]:
    return {
        name: array
        for path in folder.glob("*.safetensors")
        for name, array in load_file(path).items()
    }


def test_float16_is_stored_in_float32_which_holds_all_its_values(tmp_path: Path) -> None:
    half = {name: array.astype(np.float16) for name, array in hf_arrays(SCORED).items()}
    source, target = write_hf(tmp_path / "hf", SCORED, **half), tmp_path / "ours"
    assert main([str(source), str(target)]) == 0
    arrays = open_arrays(find_checkpoint(target) / MODEL)
    assert {array.dtype.name for array in arrays.values()} == {"float32"}


def test_training_starts_from_float32_parameters_whatever_is_stored(tmp_path: Path) -> None:
    target = tmp_path / "ours"
    assert main([str(half_folder(tmp_path / "hf")), str(target)]) == 0
    model = load_model(target)[0]
    started = initialize_from(model, target)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(started)} == {"float32"}
    kernel = named_parameters(started)["llm.blocks.mlp.up.kernel"]
    stored = open_arrays(find_checkpoint(target) / MODEL)["llm.blocks.mlp.up.kernel"]
    assert np.array_equal(kernel, stored.read().result().astype(np.float32))


def test_restoring_places_arrays_on_a_mesh(tmp_path: Path) -> None:
    ours = converted(tmp_path)
    mesh = make_mesh({"fsdp": 4, "tensor": 2})
    model, _ = load_model(ours, mesh=mesh)
    kernel = named_parameters(model)["llm.blocks.mlp.up.kernel"]
    assert len({str(shard.index) for shard in kernel.addressable_shards}) == 8
    assert same(to_native(model, name_table(SCORED)), native_arrays(SCORED))


def test_each_of_two_processes_reads_its_part_of_the_checkpoint_only(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(orbax_folder, "STORED_BLOCK_BYTES", 1 << 20)
    config = small_model_config(llm__width=512, llm__mlp_width=4096, llm__vocab_size=8192)
    ours = converted(tmp_path, config)
    wanted = named_parameters(load_model(ours)[0])
    found = restored_by_processes(ours, 2)
    total = sum(array.nbytes for array in wanted.values())
    for process in found:
        # Half of it, and what is small and on every device.
        assert process["read"] < 0.6 * total, (process["read"], total)
        for name, array in wanted.items():
            assert process["sums"][name] == pytest.approx(float(abs(array).sum()), rel=1e-4)


def restored_by_processes(checkpoint: Path, count: int) -> list[dict[str, Any]]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    script = Path(__file__).with_name("restoring_process.py")
    processes = [
        subprocess.Popen(
            [sys.executable, script, checkpoint, str(port), str(count), str(index)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(count)
    ]
    results = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0] * count, results[0][1][-2000:]
    return [json.loads(output.splitlines()[-1]) for output, _ in results]


def test_arrays_are_stored_in_small_blocks_so_that_a_process_reads_its_part_only() -> None:
    model = load_config("molmo2_4b_stts_50").model
    blocks = stored_blocks(model, 4)
    for name, parameter in abstract_parameters(model).items():
        assert np.prod(blocks[name]) * 4 <= STORED_BLOCK_BYTES
        assert all(1 <= b <= s for b, s in zip(blocks[name], parameter.shape, strict=True))
    # Width is what `fsdp` cuts.
    assert blocks["llm.embedding"][1] == model.llm.width // STORED_PARTS
    assert blocks["llm.final_norm.scale"] == (model.llm.width,), "a small one takes one file"


def test_reading_and_writing_agree_whatever_the_size_of_blocks(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(tensor_reader, "READ_BLOCK_BYTES", 300)
    monkeypatch.setattr(orbax_folder, "STORED_BLOCK_BYTES", 200)
    model, _ = load_model(converted(tmp_path))
    assert same(to_native(model, name_table(SCORED)), native_arrays(SCORED))


def test_a_scorer_is_added_only_when_asked_for(tmp_path: Path, capsys) -> None:
    source = write_hf(tmp_path / "hf", UNTIED)
    assert main([str(source), str(tmp_path / "scored"), "--add-scorer", "--topk", "0.25"]) == 0
    assert "the scorer is newly initialised" in capsys.readouterr().out
    model, config = load_model(tmp_path / "scored")
    assert config.model.prune.method == "scorer" and config.model.prune.topk == 0.25
    found = to_native(model, name_table(config.model))
    assert {k: v for k, v in found.items() if "scorer" not in k}.keys() == native_arrays(
        UNTIED
    ).keys()
    message = refused(capsys, write_hf(tmp_path / "b", SCORED), tmp_path / "c", "--add-scorer")
    assert "has a scorer" in message


def test_a_scorer_that_the_configuration_does_not_mention_is_kept(tmp_path: Path, capsys) -> None:
    config = small_model_config(llm__tied_head=False, vit__layers=6, prune__prune_at=3)
    source = write_hf(tmp_path / "hf", config)
    written = json.loads((source / "config.json").read_text())
    del written["stts_prune_config"]
    (source / "config.json").write_text(json.dumps(written))
    assert main([str(source), str(tmp_path / "ours"), "--topk", "0.3"]) == 0
    assert "assumed topk=0.3" in capsys.readouterr().out
    model, saved = load_model(tmp_path / "ours")
    assert saved.model.prune.topk == 0.3
    assert same(to_native(model, name_table(config)), native_arrays(config))


def test_dry_run_prints_the_table_and_writes_nothing(tmp_path: Path, capsys) -> None:
    source = write_hf(tmp_path / "hf", SCORED)
    assert main([str(source), str(tmp_path / "ours"), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    model = jax.eval_shape(lambda: VideoLanguageModel(SCORED, key=jax.random.key(0)))
    parameters = named_parameters(model)
    assert f"{sum(p.size for p in parameters.values()):,} parameters" in printed
    assert all(name in printed for name in parameters)
    assert f"{sum(p.size for n, p in parameters.items() if n.startswith('vit.')):,}" in printed
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize("name", SIZES)
def test_a_checkpoint_of_full_size_has_the_published_number_of_parameters(name: str) -> None:
    model = load_config(name).model
    tensors = random_tensors(model, np.dtype(ml_dtypes.bfloat16))
    head = (HF_HEAD,) if model.llm.tied_head else ()
    planned = plan(Source("none", Path("none"), HF, tensors, model, head))
    llm, connector, total = SIZES[name]
    counts = planned.parameters_by_part
    found_head = 0 if model.llm.tied_head else model.llm.vocab_size * model.llm.width
    assert counts["llm"] - found_head == llm
    assert (counts["connector"], counts["vit"], planned.parameters) == (connector, VIT, total)


def test_blocks_that_no_feature_layer_needs_are_left_out_with_a_note(tmp_path, capsys) -> None:
    config = small_model_config(vit__feature_layers=(-3, -4), llm__tied_head=True)
    arrays = hf_arrays(config)
    block = "model.vision_backbone.image_vit.transformer.resblocks."
    last = config.vit.depth - 1
    extra = {
        name.replace(f"{block}{last}.", f"{block}{last + 1}."): array
        for name, array in arrays.items()
        if name.startswith(f"{block}{last}.")
    }
    source = write_hf(tmp_path / "hf", config, **extra)
    assert main([str(source), str(tmp_path / "ours")]) == 0
    assert f"left out ViT blocks {last + 1} to" in capsys.readouterr().out


# --------------------------------------------------------------------------- nothing gets lost


def test_everything_that_does_not_fit_is_in_one_message(tmp_path: Path, capsys) -> None:
    arrays = hf_arrays(SCORED)
    norm, bias = "model.transformer.ln_f.weight", "model.vision_backbone.image_pooling_2d.wq.bias"
    source = write_hf(
        tmp_path / "hf",
        SCORED,
        **{norm: arrays[norm][:-1], "model.surprise": np.zeros((2, 3), np.float32)},
    )
    remove(source, bias)
    message = refused(capsys, source, tmp_path / "ours")
    assert f"'{norm}' has shape" in message
    assert "'model.surprise' (2, 3): nothing reads it" in message
    assert f"'{bias}' is missing" in message
    assert not (tmp_path / "ours").exists()


def test_a_fused_tensor_with_too_many_rows_is_refused(tmp_path: Path, capsys) -> None:
    name = "model.transformer.blocks.0.self_attn.att_proj.weight"
    array = hf_arrays(SCORED)[name]
    source = write_hf(tmp_path / "hf", SCORED, **{name: np.concatenate([array, array[:2]])})
    message = refused(capsys, source, tmp_path / "ours")
    assert f"'{name}': nothing reads rows {len(array)} to {len(array) + 2}" in message


@pytest.mark.parametrize("size", [0, 100])
def test_our_own_damaged_checkpoint_is_refused(tmp_path: Path, capsys, size) -> None:
    ours = converted(tmp_path)
    model = ours / "checkpoints" / "0" / "model"
    largest = max(model.rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    os.truncate(largest, size)
    message = refused(capsys, ours, tmp_path / "back", "--to", "hf")
    assert "is damaged or incomplete (" in message and "copy it again" in message
    assert not (tmp_path / "back").exists()


def test_a_config_of_other_sizes_than_our_checkpoint_is_refused(tmp_path: Path, capsys) -> None:
    ours = converted(tmp_path)
    written = (ours / "config.json").read_text()
    for part, key, value in (("llm", "layers", 10**6), ("llm", "vocab_size", 10**8)):
        config = json.loads(written)
        config["model"][part][key] = value
        (ours / "config.json").write_text(json.dumps(config))
        message = refused(capsys, ours, tmp_path / "back", "--to", "hf")
        assert str(value) in message and len(message) < 2000


def test_a_tensor_in_two_files_is_refused(tmp_path: Path, capsys) -> None:
    source = write_hf(tmp_path / "hf", SCORED)
    (source / "model-00002-of-00002.safetensors").unlink()
    os.link(source / FIRST, source / "model-00002-of-00002.safetensors")
    assert "there twice" in refused(capsys, source, tmp_path / "ours")


def remove(source: Path, name: str) -> None:
    index = json.loads((source / INDEX).read_text())
    path = source / index["weight_map"].pop(name)
    tensors = load_file(path)
    del tensors[name]
    save_file(tensors, path)
    (source / INDEX).write_text(json.dumps(index))


def test_the_table_has_each_of_our_parameters_once() -> None:
    config = load_config("molmo2_4b_stts_50").model
    model = jax.eval_shape(lambda: VideoLanguageModel(config, key=jax.random.key(0)))
    table = name_table(config)
    assert sorted(name.ours for name in table) == sorted(named_parameters(model))
    for column in COLUMNS:
        cells = [name.in_column(column) for name in table if name.in_column(column)[0]]
        assert len(cells) == len(set(cells)), column
    assert all(name.in_column(NATIVE)[0] for name in table)
