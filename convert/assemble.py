"""Assembles a model to train from a SigLIP2 vision tower and a language model.

Source: scripts/prepare_pretrained_model.py of the reference
(docs/reference.md#names-of-parameters).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from convert.fields import Fields
from convert.init import init_connector, init_scorer
from convert.mapping import Origin, map_parameters
from convert.names import (
    HF_HEAD,
    NATIVE,
    OLMO3,
    QWEN3,
    SIGLIP,
    name_table,
    unused_vit_blocks,
)
from convert.pipeline import Plan, abstract_parameters
from convert.safetensors_files import read_folder
from convert.sources import Source, require_tied
from convert.tensor_reader import ConvertError, Rows, require_inside, with_remedy
from convert.tokenizer_files import tokenizer_in
from stts_jax.config import ConfigError, ModelConfig
from stts_jax.plain_files import read_json_object
from stts_jax.quoting import shorten

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
        """Shape of the matrix."""
        out, channels, height, width = self.convolution.shape
        return (out, height * width * channels)

    @property
    def dtype(self) -> np.dtype:
        """Dtype of the stored values."""
        return self.convolution.dtype

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop)."""
        return self.convolution.read(start, stop).transpose(0, 2, 3, 1).reshape(stop - start, -1)


def assemble_start(vit: Path, llm: Path, model: ModelConfig) -> Plan:
    """Returns a model from two Hugging Face folders; what neither has is newly initialised.

    Args:
      vit: of a SigLIP or SigLIP2 model, or of its vision tower alone.
      llm: of a Qwen3 or OLMo3 model.
      model: that is to be built from them; its connector, the embeddings of the visual tokens and
        its scorer (if it has one) are newly initialised.

    Raises:
      ConvertError: if a folder is damaged, or holds a model of another kind; with all that is
        missing, unread or misshapen.
    """
    column = _llm_column(llm, model)
    _require_vit(vit, model)
    towers, noted = _towers(vit)
    words, more = read_folder(llm)
    if model.llm.tied_head:
        stated = Fields(_config(llm)).flag("tie_word_embeddings", default=False)
        require_tied(words, llm, stated)
    initial, notes = _initialised(model)
    notes = (*notes, *noted, *more)
    rest = [name for name in towers if any(re.fullmatch(each, name) for each in _SIGLIP_REST)]
    unused = (*rest, *unused_vit_blocks(model, SIGLIP))
    head = (HF_HEAD,) if model.llm.tied_head else ()
    origins = [
        initial,
        Origin(towers, SIGLIP, unused, ("vit.",)),
        Origin(words, column, head, ("llm.",)),
    ]
    mappings = map_parameters(abstract_parameters(model), origins, name_table(model))
    kind = f"assembled from '{vit}' and '{llm}'"
    source = Source(kind, llm, column, words, model, notes=notes, tokenizer=tokenizer_in(llm))
    return Plan(source, model, mappings, notes)


def _towers(folder: Path) -> tuple[dict[str, Rows], tuple[str, ...]]:
    """Tensors of a SigLIP folder, as a whole SigLIP model would name them, and notes."""
    found, notes = read_folder(folder)
    tensors: dict[str, Rows] = {
        name: PatchKernelRows(tensor) if len(tensor.shape) == 4 else tensor
        for name, tensor in found.items()
    }
    if any(name.startswith("vision_model.") for name in tensors):
        return tensors, notes
    return {f"vision_model.{name}": tensor for name, tensor in tensors.items()}, notes


def _initialised(model: ModelConfig) -> tuple[Origin, tuple[str, ...]]:
    tensors = init_connector(model, NATIVE)
    prefixes: tuple[str, ...] = ("connector.", "llm.extra_embedding")
    notes: tuple[str, ...] = (
        "connector and embeddings of the visual tokens are newly initialised",
    )
    if model.prune.method == "scorer":
        tensors, prefixes = tensors | init_scorer(model, NATIVE), (*prefixes, "scorer.")
        notes += ("the scorer is newly initialised",)
    return Origin(tensors, NATIVE, prefixes=prefixes), notes


def _llm_column(folder: Path, model: ModelConfig) -> str:
    config, llm = Fields(_config(folder)), model.llm
    with _named(folder):
        kind = config.text("model_type", default="")
        if kind not in _LLM_TYPES:
            raise ConfigError(
                f"it holds a model of type {shorten(kind)}; --init takes {', '.join(_LLM_TYPES)}"
            )
        rope = config.table("rope_parameters", default={})
        # Of any of the layers' rotary embeddings; they share it.
        rope = rope.table("full_attention", default=rope.plain())
        _require_same(
            {
                "num_attention_heads": (config.whole("num_attention_heads"), llm.heads),
                "num_key_value_heads": (
                    config.whole("num_key_value_heads", default=llm.kv_heads),
                    llm.kv_heads,
                ),
                "rms_norm_eps": (
                    config.number("rms_norm_eps", default=llm.norm_epsilon),
                    llm.norm_epsilon,
                ),
                "rope_theta": (
                    (rope if "rope_theta" in rope else config).number(
                        "rope_theta", default=llm.rope_theta
                    ),
                    llm.rope_theta,
                ),
            },
        )
    return _LLM_TYPES[kind]


def _require_vit(folder: Path, model: ModelConfig) -> None:
    config, vit = Fields(_config(folder)), model.vit
    with _named(folder):
        config = config.table("vision_config", default=config.plain())
        wanted: dict[str, Any] = {
            "num_attention_heads": vit.heads,
            "num_hidden_layers": vit.layers,
            "patch_size": vit.patch_size,
        }
        pairs = {key: (config.whole(key, default=value), value) for key, value in wanted.items()}
        epsilon = config.number("layer_norm_eps", default=vit.norm_epsilon)
        _require_same(pairs | {"layer_norm_eps": (epsilon, vit.norm_epsilon)})


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    require_inside(path, folder)
    with with_remedy("download it again"):
        return read_json_object(path)


@contextmanager
def _named(folder: Path) -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        raise ConvertError(f"'{folder / 'config.json'}': {error}") from error


def _require_same(pairs: Mapping[str, tuple[Any, Any]]) -> None:
    """Raises where the configuration differs in what no tensor's shape shows."""
    differing = [
        f"{key} is {found}, not {wanted}"
        for key, (found, wanted) in pairs.items()
        if found != wanted
    ]
    if differing:
        raise ConfigError(
            f"this is not what --config describes: {'; '.join(differing)}; choose the setup that "
            "belongs to it"
        )
