"""A start for training from parts: a SigLIP2 vision tower, a language model, the rest fresh.

Source: scripts/prepare_pretrained_model.py of the reference (MODEL 5.2).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from convert.fresh import fresh_connector, fresh_scorer
from convert.names import HF_HEAD, NATIVE, OLMO3, QWEN3, SIGLIP, Name, name_table
from convert.orbax_folder import JoinedRows
from convert.safetensors_files import read_folder
from convert.sources import Source, require_tied
from convert.stored import ConvertError, Rows, require_inside
from stts_jax.config import ModelConfig

# What a SigLIP checkpoint has besides the tower's blocks: its text tower, and what follows them.
_SIGLIP_REST = (
    r"text_model\..*",
    r"logit_(scale|bias)",
    r"vision_model\.post_layernorm\..*",
    r"vision_model\.head\..*",
)
_LLM_TYPES = {"qwen3": QWEN3, "olmo3": OLMO3}


@dataclass(frozen=True)
class PatchKernelRows:
    """A convolution over patches, (out, channels, h, w), as a matrix (out, h * w * channels)."""

    convolution: Rows

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the matrix."""
        out, channels, height, width = self.convolution.shape
        return (out, height * width * channels)

    @property
    def dtype(self) -> np.dtype:
        """Of the stored values."""
        return self.convolution.dtype

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop)."""
        return self.convolution.read(start, stop).transpose(0, 2, 3, 1).reshape(stop - start, -1)


def assemble_start(vit: Path, llm: Path, model: ModelConfig) -> Source:
    """One checkpoint, under native names, from two Hugging Face folders.

    Args:
      vit: of a SigLIP or SigLIP2 model, or of its vision tower alone.
      llm: of a Qwen3 or OLMo3 model.
      model: that is to be built from them; its connector, the embeddings of the visual tokens and
        its scorer (if it has one) are fresh.

    Raises:
      ConvertError: if a folder is damaged, or holds a model of another kind.
    """
    column = _llm_column(llm, model)
    _require_vit(vit, model)
    towers, words = dict(read_folder(vit)), dict(read_folder(llm))
    for name, tensor in towers.items():
        if len(tensor.shape) == 4:
            towers[name] = PatchKernelRows(tensor)
    if not any(name.startswith("vision_model.") for name in towers):
        towers = {f"vision_model.{name}": tensor for name, tensor in towers.items()}
    table = name_table(model)
    tensors = {
        **_renamed(towers, [n for n in table if n.ours.startswith("vit.")], SIGLIP, model),
        **_renamed(words, [n for n in table if n.ours.startswith("llm.")], column, model),
        **fresh_connector(model, NATIVE),
    }
    if model.prune.method == "scorer":
        tensors |= fresh_scorer(model, NATIVE)
    left = [*_unread(towers, table, SIGLIP, model), *_unread(words, table, column, model)]
    if left:
        raise ConvertError(f"nothing reads these tensors of '{vit}' and '{llm}': {left}")
    if model.llm.tied_head:
        require_tied(words, llm)
    notes = ("connector and embeddings of the visual tokens are fresh",)
    if model.prune.method == "scorer":
        notes += ("the scorer is fresh",)
    return Source(f"assembled from '{vit}' and '{llm}'", llm, NATIVE, tensors, model, notes=notes)


def _llm_column(folder: Path, model: ModelConfig) -> str:
    config, llm = _config(folder), model.llm
    kind = config.get("model_type")
    if kind not in _LLM_TYPES:
        raise ConvertError(
            f"'{folder}' holds a model of type {kind!r}; --init takes {', '.join(_LLM_TYPES)}"
        )
    _require_same(
        folder,
        {**config, "rope_theta": _rope_theta(config)},
        {
            "num_attention_heads": llm.heads,
            "num_key_value_heads": llm.kv_heads,
            "rms_norm_eps": llm.norm_epsilon,
            "rope_theta": llm.rope_theta,
        },
    )
    return _LLM_TYPES[kind]


def _rope_theta(config: Mapping[str, Any]) -> Any:
    """Of any of the layers' rotary embeddings; they share it."""
    rope = config.get("rope_parameters") or {}
    return (rope.get("full_attention") or rope).get("rope_theta", config.get("rope_theta"))


def _require_vit(folder: Path, model: ModelConfig) -> None:
    config, vit = _config(folder), model.vit
    _require_same(
        folder,
        config.get("vision_config", config),
        {
            "num_attention_heads": vit.heads,
            "num_hidden_layers": vit.layers,
            "patch_size": vit.patch_size,
            "layer_norm_eps": vit.norm_epsilon,
        },
    )


def _config(folder: Path) -> dict[str, Any]:
    try:
        return json.loads(require_inside(folder / "config.json", folder).read_text())
    except ValueError as error:
        raise ConvertError(
            f"'{folder / 'config.json'}' cannot be read: {error}; download it again"
        ) from error


def _require_same(folder: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """What no tensor's shape shows must be as the model's configuration has it."""
    differing = [
        f"{key} is {found[key]}, not {value}"
        for key, value in wanted.items()
        if found.get(key) is not None and found[key] != value
    ]
    if differing:
        raise ConvertError(
            f"'{folder}' is not what --config describes: {'; '.join(differing)}; choose the "
            "setup that belongs to it"
        )


def _renamed(
    tensors: Mapping[str, Rows], table: list[Name], column: str, model: ModelConfig
) -> dict[str, Rows]:
    """Tensors of another column under their native names, joined where native ones are fused."""
    found: dict[str, dict[int, Rows]] = {}
    for name in table:
        template, _ = name.cell(column)
        if not template:
            continue
        depth = model.vit.depth if name.ours.startswith("vit.") else model.llm.layers
        for layer in range(depth) if "{layer}" in template else [0]:
            theirs = template.format(layer=layer)
            if theirs in tensors:
                start = name.rows[0] if name.rows else 0
                found.setdefault(name.native.format(layer=layer), {})[start] = tensors[theirs]
    return {
        native: JoinedRows(tuple(parts[start] for start in sorted(parts)))
        if len(parts) > 1
        else next(iter(parts.values()))
        for native, parts in found.items()
    }


def _unread(
    tensors: Mapping[str, Rows], table: tuple[Name, ...], column: str, model: ModelConfig
) -> list[str]:
    layers = max(model.vit.layers, model.llm.layers)
    known = {
        template.format(layer=layer)
        for name in table
        if (template := name.cell(column)[0])
        for layer in range(layers)
    }
    rest = [*_SIGLIP_REST, re.escape(HF_HEAD)] if model.llm.tied_head else _SIGLIP_REST
    return [
        name
        for name in tensors
        if name not in known and not any(re.fullmatch(pattern, name) for pattern in rest)
    ]
