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
from convert.matching import Origin, match
from convert.names import (
    HF_HEAD,
    NATIVE,
    OLMO3,
    QWEN3,
    SIGLIP,
    name_table,
    unused_vit_blocks,
)
from convert.run import Plan, abstract_parameters
from convert.safetensors_files import read_folder
from convert.sources import Source, require_tied, tokenizer_in
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


def assemble_start(vit: Path, llm: Path, model: ModelConfig) -> Plan:
    """A model from two Hugging Face folders; what neither has is fresh.

    Args:
      vit: of a SigLIP or SigLIP2 model, or of its vision tower alone.
      llm: of a Qwen3 or OLMo3 model.
      model: that is to be built from them; its connector, the embeddings of the visual tokens and
        its scorer (if it has one) are fresh.

    Raises:
      ConvertError: if a folder is damaged, or holds a model of another kind; with all that is
        missing, unread or misshapen.
    """
    column = _llm_column(llm, model)
    _require_vit(vit, model)
    towers, words = _towers(vit), read_folder(llm)
    if model.llm.tied_head:
        require_tied(words, llm)
    fresh, notes = _fresh(model)
    rest = [name for name in towers if any(re.fullmatch(each, name) for each in _SIGLIP_REST)]
    unused = (*rest, *unused_vit_blocks(model, SIGLIP))
    head = (HF_HEAD,) if model.llm.tied_head else ()
    origins = [
        fresh,
        Origin(towers, SIGLIP, unused, ("vit.",)),
        Origin(words, column, head, ("llm.",)),
    ]
    fillings = match(abstract_parameters(model), origins, name_table(model))
    kind = f"assembled from '{vit}' and '{llm}'"
    source = Source(kind, llm, column, words, model, notes=notes, tokenizer=tokenizer_in(llm))
    return Plan(source, model, fillings, notes)


def _towers(folder: Path) -> dict[str, Rows]:
    """Tensors of a SigLIP folder, as a whole SigLIP model would name them."""
    tensors = {
        name: PatchKernelRows(tensor) if len(tensor.shape) == 4 else tensor
        for name, tensor in read_folder(folder).items()
    }
    if any(name.startswith("vision_model.") for name in tensors):
        return tensors
    return {f"vision_model.{name}": tensor for name, tensor in tensors.items()}


def _fresh(model: ModelConfig) -> tuple[Origin, tuple[str, ...]]:
    tensors, prefixes = fresh_connector(model, NATIVE), ("connector.", "llm.extra_embedding")
    notes = ("connector and embeddings of the visual tokens are fresh",)
    if model.prune.method == "scorer":
        tensors, prefixes = tensors | fresh_scorer(model, NATIVE), (*prefixes, "scorer.")
        notes += ("the scorer is fresh",)
    return Origin(tensors, NATIVE, prefixes=prefixes), notes


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
