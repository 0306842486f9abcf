"""Small checkpoints on disk for the converter's tests."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
from arbitrary_models import arbitrary_model
from model_cases import small_model_config
from native_arrays import to_native

from convert.hf_config import hf_config_of
from convert.names import HF, HF_HEAD, name_table
from stts_jax.config import ModelConfig


@cache
def native_arrays(config: ModelConfig) -> dict[str, np.ndarray]:
    """A random model of this configuration, under the reference's names."""
    model = arbitrary_model(config, seed=3)
    return {
        name: np.ascontiguousarray(array)
        for name, array in to_native(model, name_table(config)).items()
    }


def hf_arrays(config: ModelConfig) -> dict[str, np.ndarray]:
    """The same model under the released Hugging Face names, head included."""
    native = native_arrays(config)
    arrays = {}
    for name in name_table(config):
        for layer in range(max(config.llm.layers, config.vit.depth)):
            theirs = name.native.format(layer=layer)
            if theirs in native:
                arrays[name.in_column(HF)[0].format(layer=layer)] = native[theirs]
    if config.llm.tied_head:
        arrays[HF_HEAD] = native["transformer.wte.embedding"]
    return arrays


def write_hf(folder: Path, config: ModelConfig, **arrays: np.ndarray) -> Path:
    """A Hugging Face folder in two files, written by the safetensors library."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    tensors = hf_arrays(config) | arrays
    names = sorted(tensors)
    halves = (names[: len(names) // 2], names[len(names) // 2 :])
    weight_map = {}
    for i, half in enumerate(halves):
        file = f"model-{i + 1:05d}-of-00002.safetensors"
        save_file({name: tensors[name] for name in half}, folder / file)
        weight_map |= dict.fromkeys(half, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps(hf_config_of(config, "float32")))
    return folder


SCORED = small_model_config(llm__tied_head=True, connector__mlp_width=32)
# As a folder says that knows nothing of pruning, and deep enough for a scorer at its usual place.
UNTIED = small_model_config(
    llm__tied_head=False,
    connector__mlp_width=32,
    vit__layers=6,
    prune__method="none",
    prune__topk=0.0,
    prune__prune_at=3,
)
