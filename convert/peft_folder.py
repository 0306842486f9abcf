"""Adapters in the format of PEFT: `adapter_model.safetensors` and `adapter_config.json`.

The modules are those of transformers' class. A released Molmo2 with code of its own fuses some of
them, and adapters of that class are read too: the parts of a fused layer share A, and have their
rows of B.

Source: docs/reference.md#adapters-of-peft.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from convert.names import HF, TRANSFORMERS, Name, name_table
from convert.safetensors_files import read_file
from convert.tensor_reader import ConvertError, TensorReader, require_inside, with_remedy
from stts_jax.config import LoraConfig, ModelConfig
from stts_jax.plain_files import read_json_object
from stts_jax.quoting import shorten

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
# No class of transformers has a scorer; PEFT ignores this file.
SCORER = "scorer.safetensors"
# The settings of the run, if one of ours wrote the folder.
SETTINGS = "stts_config.json"
_PREFIX = "base_model.model."
_A, _B = ".lora_A.weight", ".lora_B.weight"
_KERNEL, _WEIGHT = ".kernel", ".weight"


@dataclass(frozen=True)
class Adapter:
    """The adapters of a model.

    Attributes:
      layers: `lora_a` and `lora_b`, stacked as the layers are, by dotted name of the layer.
      lora: rank, alpha and targets.
    """

    layers: Mapping[str, tuple[np.ndarray, np.ndarray]]
    lora: LoraConfig


def write_adapter(
    folder: Path, adapter: Adapter, model: ModelConfig, base: str, scorer: Mapping[str, np.ndarray]
) -> None:
    """Writes adapters for transformers' class to an existing folder.

    Args:
      folder: of the adapter.
      adapter: to write.
      model: that they belong to.
      base: for `base_model_name_or_path`.
      scorer: parameters of the scorer by our names, if it was trained.
    """
    rows = {name.ours: name for name in name_table(model)}
    tensors: dict[str, np.ndarray] = {}
    modules = []
    for layer, (a, b) in adapter.layers.items():
        template, _ = rows[layer + _KERNEL].in_column(TRANSFORMERS)
        for module, index in _modules(template, len(a) if a.ndim == 3 else None):
            modules.append(module)
            own_a, own_b = (a, b) if index is None else (a[index], b[index])
            tensors[f"{_PREFIX}{module}{_A}"] = np.ascontiguousarray(own_a.T)
            tensors[f"{_PREFIX}{module}{_B}"] = np.ascontiguousarray(own_b.T)
    save_file(tensors, folder / TENSORS, metadata={"format": "pt"})
    if scorer:
        named = {
            rows[name].in_column(TRANSFORMERS)[0]: np.ascontiguousarray(
                array.T if rows[name].transpose else array
            )
            for name, array in scorer.items()
        }
        save_file(named, folder / SCORER, metadata={"format": "pt"})
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base,
        "r": adapter.lora.rank,
        "lora_alpha": adapter.lora.alpha,
        "lora_dropout": adapter.lora.dropout,
        "target_modules": sorted(modules),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "modules_to_save": None,
        "rank_pattern": {},
        "alpha_pattern": {},
        "use_rslora": False,
        "use_dora": False,
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def read_adapter(folder: Path, model: ModelConfig) -> Adapter:
    """Reads adapters of a model.

    Ranks and scales may differ between PEFT's modules: smaller ranks are padded with zeros, and
    where scales differ they go into B, with an alpha that is the rank.

    Raises:
      ConvertError: if files are damaged, or hold anything but LoRA of layers that can have it.
    """
    config = _read_config(folder)
    path = require_inside(folder / TENSORS, folder)
    if not path.is_file():
        raise ConvertError(f"'{folder / TENSORS}' is missing; copy the adapter again")
    pairs = _pairs(read_file(path), path)
    unused = set(pairs)
    parts: dict[str, list[_Part | None]] = {}
    for name in name_table(model):
        if name.ours.endswith(_KERNEL) and not name.ours.startswith("scorer."):
            found, used = _parts_of(name, pairs, config, model)
            unused -= used
            if any(part is not None for part in found):
                parts[name.ours.removesuffix(_KERNEL)] = found
    if unused or not parts:
        raise ConvertError(
            f"'{path}' adapts {shorten(sorted(unused)) if unused else 'nothing'}, which is no "
            "dense layer of ViT, connector or LLM; name the base that it belongs to (--base), or "
            "train without these modules"
        )
    return _stacked(parts, model, config)


def read_scorer(folder: Path, model: ModelConfig) -> dict[str, np.ndarray]:
    """Returns the parameters of the scorer beside an adapter by our names, if there are any."""
    path = folder / SCORER
    if not path.exists() or model.prune.method != "scorer":
        return {}
    tensors = read_file(require_inside(path, folder))
    found = {}
    for name in name_table(model):
        theirs = name.in_column(TRANSFORMERS)[0]
        if name.ours.startswith("scorer."):
            if theirs not in tensors:
                raise ConvertError(f"'{path}' lacks '{theirs}'; copy the adapter again")
            array = _whole(tensors[theirs])
            found[name.ours] = array.T if name.transpose else array
    return found


@dataclass(frozen=True)
class _Part:
    """An adapter of one layer of ours: (in, rank), (rank, out), and its scale."""

    a: np.ndarray
    b: np.ndarray
    scale: float


def _modules(template: str, layers: int | None) -> Iterator[tuple[str, int | None]]:
    """Yields the module of each layer, and its index."""
    template = template.removesuffix(_WEIGHT)
    if layers is None:
        yield template, None
    else:
        for index in range(layers):
            yield template.format(layer=index), index


def _read_config(folder: Path) -> Mapping[str, Any]:
    path = require_inside(folder / CONFIG, folder)
    with with_remedy("copy the adapter again"):
        config = read_json_object(path)
    wanted: dict[str, tuple[Any, ...]] = {
        "peft_type": ("LORA",),
        "bias": ("none", None),
        "modules_to_save": (None, []),
        "use_dora": (False, None),
        "fan_in_fan_out": (False, None),
        "lora_bias": (False, None),
    }
    for key, values in wanted.items():
        if config.get(key) not in values:
            raise ConvertError(
                f"'{path}' has {key}={shorten(config.get(key))}; only {key}={values[0]} can be read"
            )
    for key in ("r", "lora_alpha"):
        value = config.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1e6:
            raise ConvertError(f"'{path}' has {key}={shorten(value)}; it must be above 0")
    return config


def _pairs(tensors: Mapping[str, TensorReader], path: Path) -> dict[str, tuple[Any, Any]]:
    """Returns readers of A and B by module."""
    pairs = {}
    for name in tensors:
        module = name.removeprefix(_PREFIX)
        if module.endswith(_A):
            module = module.removesuffix(_A)
            other = name.removesuffix(_A) + _B
            if other not in tensors:
                raise ConvertError(f"'{path}' lacks {shorten(other)}; copy the adapter again")
            pairs[module] = (tensors[name], tensors[other])
        elif not (module.endswith(_B) and name.removesuffix(_B) + _A in tensors):
            raise ConvertError(
                f"'{path}' holds {shorten(name)}, which is no part of LoRA on dense layers; only "
                "such adapters can be read"
            )
    return pairs


def _parts_of(
    name: Name, pairs: Mapping[str, tuple[Any, Any]], config: Mapping[str, Any], model: ModelConfig
) -> tuple[list[_Part | None], set[str]]:
    """Returns the adapter of each layer of one of our kernels, and the modules it is from."""
    stacked = "{layer}" in name.native
    depths = {"llm": model.llm.layers, "vit": model.vit.depth}
    layers = depths[name.ours.split(".")[0]] if stacked else None
    found: list[_Part | None] = [None] * (layers or 1)
    used = set()
    for column in (TRANSFORMERS, HF):
        template, bounds = name.in_column(column)
        for module, index in _modules(template, layers):
            if module in pairs and module not in used:
                used.add(module)
                found[index or 0] = _part(module, pairs[module], bounds, config)
    return found, used


def _part(
    module: str, pair: tuple[Any, Any], bounds: tuple[int, int] | None, config: Mapping[str, Any]
) -> _Part:
    a, b = (_whole(reader) for reader in pair)
    if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
        raise ConvertError(
            f"the adapter of '{module}' has A of shape {a.shape} and B of shape {b.shape}, which "
            "don't fit together; copy it again"
        )
    alpha = _of_module(config.get("alpha_pattern"), module, config["lora_alpha"])
    rank = len(a)
    if bounds is not None:
        b = b[bounds[0] : bounds[1]]
        # A fused layer's adapter may be of several, one for each part: the others' add nothing.
        counted = b.any(0)
        if counted.any():
            a, b = a[counted], b[:, counted]
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return _Part(a.T, b.T, scale)


def _of_module(pattern: Any, module: str, default: float) -> float:
    """Returns the entry of `alpha_pattern` for a module: its keys are ends of names, or regular."""
    for key, value in (pattern or {}).items():
        if module == key or module.endswith(f".{key}") or re.fullmatch(rf"(.*\.)?({key})", module):
            return float(value)
    return float(default)


def _stacked(
    parts: Mapping[str, list[_Part | None]], model: ModelConfig, config: Mapping[str, Any]
) -> Adapter:
    known = [part for of_layer in parts.values() for part in of_layer if part is not None]
    rank = max(part.a.shape[1] for part in known)
    alpha = config["lora_alpha"]
    folded = any(part.scale != alpha / rank for part in known)
    layers = {}
    for layer, found in parts.items():
        shape = next((p.a.shape[0], p.b.shape[1]) for p in found if p is not None)
        a = np.zeros((len(found), shape[0], rank), np.float32)
        b = np.zeros((len(found), rank, shape[1]), np.float32)
        for index, part in enumerate(found):
            if part is not None:
                own = part.a.shape[1]
                a[index, :, :own] = part.a
                b[index, :own] = part.b * np.float32(part.scale) if folded else part.b
        stacked = layer.startswith(("llm.blocks.", "vit.blocks."))
        layers[layer] = (a, b) if stacked else (a[0], b[0])
    targets = tuple(layer.replace(".blocks.", ".") for layer in layers)
    dropout = float(config.get("lora_dropout") or 0.0)
    lora = LoraConfig(rank, float(rank if folded else alpha), dropout, targets)
    return Adapter(layers, lora)


def _whole(reader: TensorReader) -> np.ndarray:
    values: np.ndarray = reader.read(0, reader.shape[0] if reader.shape else 1)
    return values.astype(np.float32)
