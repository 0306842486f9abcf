"""The reference's own checkpoints: read right, and never run.

What needs torch is marked; the pickled metadata is read without it.
"""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from convert_cases import SCORED, UNTIED, native_arrays
from native_arrays import to_native
from test_convert import refused, same

from convert.__main__ import main
from convert.names import name_table
from convert.pickled_metadata import read_metadata
from convert.tensor_reader import ConvertError
from stts_jax.config import ModelConfig
from stts_jax.training.checkpointing.load import load_model

needs_torch = pytest.mark.parity_torch


def native_config(config: ModelConfig) -> dict[str, Any]:
    """`config.yaml` of a model; only what a reader has to know, the rest is at its defaults."""
    vit, llm, prune = config.vit, config.llm, config.prune
    table: dict[str, Any] = {
        "image_model_type": "siglip",
        "image_default_input_size": [vit.image_size, vit.image_size],
        "image_patch_size": vit.patch_size,
        "image_emb_dim": vit.width,
        "image_num_heads": vit.heads,
        "image_num_layers": vit.layers,
        "image_head_dim": vit.head_dim,
        "image_mlp_dim": vit.mlp_width,
        "image_num_pos": vit.positions,
        "image_norm_eps": vit.norm_epsilon,
    }
    if prune.method != "none":
        table |= {
            "prune_method": prune.method,
            "topk": prune.topk * config.tokens_per_frame / 81,
            "prune_at": prune.prune_at,
            "pruning_in_scorer": prune.pruning_in_scorer,
            "prune_from_frame": prune.prune_from_frame,
            "rescale_bias_min": prune.rescale_bias_min,
            "sim_reg_loss_coefficient": prune.loss_coefficient,
            "new_ref_threshold": prune.new_reference_threshold,
        }
    return {
        "model_name": "video_olmo",
        "llm": {
            "d_model": llm.width,
            "n_layers": llm.layers,
            "n_heads": llm.heads,
            "n_kv_heads": llm.kv_heads,
            "head_dim": llm.head_dim,
            "mlp_hidden_size": 2 * llm.mlp_width,
            "vocab_size": llm.vocab_size,
            "additional_vocab_size": llm.extra_vocab_size,
            "weight_tying": llm.tied_head,
            "attention_layer_norm": True,
            "attention_layer_norm_type": "qwen3",
            "layer_norm_type": "rms",
            "include_bias": False,
            "layer_norm_eps": llm.norm_epsilon,
            "rope_theta": llm.rope_theta,
            "max_sequence_length": llm.max_positions,
            "residual_dropout": 0.0,
        },
        "vision_backbone": {
            "vit": table,
            "vit_layers": list(vit.feature_layers),
            "pooling_attention_mask": config.connector.pooling_attention_mask,
        },
        "bi_directional_attn": llm.bidirectional,
    }


def write_config(folder: Path, config: ModelConfig, **changes: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": native_config(config) | changes}))


def write_unsharded(folder: Path, config: ModelConfig) -> Path:
    import torch

    write_config(folder, config)
    arrays = native_arrays(config)
    torch.save({k: torch.tensor(v) for k, v in arrays.items()}, folder / "model.pt")
    return folder


def write_sharded(folder: Path, config: ModelConfig) -> Path:
    import torch
    import torch.distributed.checkpoint as dcp

    write_config(folder, config)
    state = {f"model.{k}": torch.tensor(v) for k, v in native_arrays(config).items()}
    state |= {"optim.state.x.exp_avg": torch.zeros(3)}
    dcp.save(state, checkpoint_id=folder / "model_and_optim", no_dist=True)
    return folder


WRITERS = {"unsharded": write_unsharded, "sharded": write_sharded}


@needs_torch
@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("config", [SCORED, UNTIED], ids=["tied, scorer", "untied, plain"])
def test_a_native_checkpoint_becomes_ours_bit_for_bit(
    config: ModelConfig, writer: str, tmp_path: Path
) -> None:
    source = WRITERS[writer](tmp_path / "native", config)
    assert main([str(source), str(tmp_path / "ours")]) == 0
    model, saved = load_model(tmp_path / "ours")
    assert same(to_native(model, name_table(config)), native_arrays(config))
    assert saved.model.vit == config.vit and saved.model.llm == config.llm
    assert saved.model.prune.topk == pytest.approx(config.prune.topk)


@needs_torch
def test_wrappers_are_taken_off_names(tmp_path: Path) -> None:
    import torch

    write_config(tmp_path / "native", SCORED)
    arrays = {
        name.replace("transformer.blocks.0", "transformer.blocks.0._checkpoint_wrapped_module"): v
        for name, v in native_arrays(SCORED).items()
    }
    wrapped = {f"_fsdp_wrapped_module.{k}": torch.tensor(v) for k, v in arrays.items()}
    torch.save(wrapped, tmp_path / "native" / "model.pt")
    assert main([str(tmp_path / "native"), str(tmp_path / "ours")]) == 0


@needs_torch
def test_the_latest_step_is_taken_and_any_other_on_request(tmp_path: Path, capsys) -> None:
    write_unsharded(tmp_path / "run" / "step20-unsharded", SCORED)
    write_sharded(tmp_path / "run" / "step100", SCORED)
    shutil.copytree(tmp_path / "run" / "step20-unsharded", tmp_path / "run" / "step100-unsharded")
    assert main([str(tmp_path / "run"), "--dry-run"]) == 0
    assert "step100: native, sharded" in capsys.readouterr().out
    assert main([str(tmp_path / "run"), "--step", "20", "--dry-run"]) == 0
    assert "step20-unsharded: native, unsharded" in capsys.readouterr().out
    message = refused(capsys, tmp_path / "run", tmp_path / "ours", "--step", "7")
    assert "--step is 7" in message and "[20, 100]" in message


@needs_torch
def test_rows_in_several_files_are_put_together(tmp_path: Path) -> None:
    """As FSDP writes them: each process its rows of every tensor."""
    source = write_sharded(tmp_path / "native", SCORED)
    cut_in_two(source / "model_and_optim", "model.transformer.wte.embedding")
    assert main([str(source), str(tmp_path / "ours")]) == 0
    model, _ = load_model(tmp_path / "ours")
    assert same(to_native(model, name_table(SCORED)), native_arrays(SCORED))


def cut_in_two(folder: Path, name: str) -> None:
    import io

    import torch
    from torch.distributed.checkpoint.filesystem import _StorageInfo
    from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex

    metadata = pickle.loads((folder / ".metadata").read_bytes())
    tensor = torch.tensor(native_arrays(SCORED)[name.removeprefix("model.")])
    half = len(tensor) // 2
    index = next(i for i in metadata.storage_data if i.fqn == name)
    del metadata.storage_data[index]
    chunks = []
    # The later rows first: order is not to be relied on.
    for k, (start, part) in enumerate(((half, tensor[half:]), (0, tensor[:half]))):
        blob = io.BytesIO()
        torch.save(part.clone(), blob)
        (folder / f"__{k}_9.distcp").write_bytes(b"before" + blob.getvalue() + b"behind")
        offsets = torch.Size([start, 0])
        chunks.append(ChunkStorageMetadata(offsets, part.shape))
        info = _StorageInfo(f"__{k}_9.distcp", 6, len(blob.getvalue()))
        metadata.storage_data[MetadataIndex(name, offsets)] = info
    metadata.state_dict_metadata[name].chunks = chunks
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


@needs_torch
@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_damaged_shard_is_named(damage: str, tmp_path: Path, capsys) -> None:
    source = write_sharded(tmp_path / "native", SCORED)
    shard = next((source / "model_and_optim").glob("*.distcp"))
    data = shard.read_bytes()
    shard.unlink()
    if damage == "truncated":
        shard.write_bytes(data[: len(data) // 2])
    message = refused(capsys, source, tmp_path / "ours")
    assert shard.name in message and damage in message
    assert not (tmp_path / "ours").exists()


@needs_torch
def test_a_shard_outside_of_the_folder_is_refused(tmp_path: Path, capsys) -> None:
    source = write_sharded(tmp_path / "native", SCORED)
    shard = next((source / "model_and_optim").glob("*.distcp"))
    shard.rename(tmp_path / shard.name)
    metadata = source / "model_and_optim" / ".metadata"
    loaded = pickle.loads(metadata.read_bytes())
    for info in loaded.storage_data.values():
        info.relative_path = f"../../{shard.name}"
    metadata.write_bytes(pickle.dumps(loaded))
    assert "leads out" in refused(capsys, source, tmp_path / "ours")


class Malicious:
    """Makes a file when it is unpickled without care."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_malicious_metadata_file_is_refused_and_not_run(tmp_path: Path) -> None:
    trap, file = tmp_path / "trap", tmp_path / ".metadata"
    file.write_bytes(pickle.dumps(Malicious(trap)))
    with pytest.raises(ConvertError, match="nothing in it was run"):
        read_metadata(file)
    assert not trap.exists()


@pytest.mark.parametrize("data", [b"", b"nonsense", pickle.dumps([1, 2])])
def test_damaged_metadata_is_a_clear_error(data: bytes, tmp_path: Path) -> None:
    (tmp_path / ".metadata").write_bytes(data)
    with pytest.raises(ConvertError, match="damaged"):
        read_metadata(tmp_path / ".metadata")


@needs_torch
def test_a_malicious_model_file_is_refused_and_not_run(tmp_path: Path, capsys) -> None:
    import torch

    write_config(tmp_path / "native", SCORED)
    torch.save({"x": Malicious(tmp_path / "trap")}, tmp_path / "native" / "model.pt")
    message = refused(capsys, tmp_path / "native", tmp_path / "ours")
    assert "nothing in it was run" in message
    assert not (tmp_path / "trap").exists()


def test_a_yaml_file_runs_nothing(tmp_path: Path, capsys) -> None:
    folder = tmp_path / "native"
    folder.mkdir()
    np.zeros(1).tofile(folder / "model.pt")
    (folder / "config.yaml").write_text(f"!!python/object/apply:os.mkdir ['{tmp_path / 'trap'}']")
    refused(capsys, folder, tmp_path / "ours")
    assert not (tmp_path / "trap").exists()


@needs_torch
def test_a_contradicting_flag_is_refused(tmp_path: Path, capsys) -> None:
    source = write_unsharded(tmp_path / "native", SCORED)
    message = refused(capsys, source, tmp_path / "ours", "--bidirectional", "within_image")
    assert "--bidirectional is within_image" in message and "image_tokens" in message


@needs_torch
def test_older_layout_of_the_preprocessor_is_understood(tmp_path: Path) -> None:
    source = write_unsharded(tmp_path / "native", UNTIED)
    older = {"mm_preprocessor": {"pooling_h": 3, "pooling_w": 3, "max_crops": 1}}
    write_config(source, UNTIED, **older)
    assert main([str(source), str(tmp_path / "ours")]) == 0
    assert load_model(tmp_path / "ours")[1].model.prune.pooling == 3


@needs_torch
def test_two_ratios_that_disagree_are_refused(tmp_path: Path, capsys) -> None:
    source = write_unsharded(tmp_path / "native", SCORED)
    write_config(source, SCORED, mm_preprocessor={"topk": 0.123})
    assert "mm_preprocessor says topk=0.123" in refused(capsys, source, tmp_path / "ours")
