"""The table of names: what each of our parameters is called in the reference's native checkpoints.

Source: olmo/nn of allenai/molmo2 (MODEL 5.2). Torch stores linear weights as (out, in), we as
(in, out); it fuses q, k, v and up, gate into one tensor each, we keep them apart; it numbers
layers in the name, we stack them along a leading axis.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import numpy as np

from stts_jax.config import ModelConfig
from stts_jax.parallel.parameters import named_parameters, parameter_name

M = TypeVar("M")

VIT = "vision_backbone.image_vit"
VIT_BLOCK = f"{VIT}.transformer.resblocks.{{layer}}"
SCORER = f"{VIT}.transformer.temporal_token_scorer"
LLM_BLOCK = "transformer.blocks.{layer}"


@dataclass(frozen=True)
class Name:
    """One row of the table.

    Attributes:
      ours: dotted name of our parameter.
      native: the reference's name; `{layer}` if ours is stacked over layers.
      transpose: whether the two are transposes of each other.
      rows: first and last + 1 row of the (untransposed) native tensor, if ours is a part of it.
    """

    ours: str
    native: str
    transpose: bool = False
    rows: tuple[int, int] | None = None


def name_table(config: ModelConfig) -> tuple[Name, ...]:
    """All parameters of a model of this configuration."""
    table = [*_vit_names(), *_connector_names(), *_llm_names(config)]
    return (*table, *_scorer_names()) if config.prune.method == "scorer" else tuple(table)


def _linear(ours: str, native: str, bias: bool = True) -> list[Name]:
    names = [Name(f"{ours}.kernel", f"{native}.weight", transpose=True)]
    return [*names, Name(f"{ours}.bias", f"{native}.bias")] if bias else names


def _multi_head(ours: str, native: str) -> list[Name]:
    parts = {"query": "wq", "key": "wk", "value": "wv", "output": "wo"}
    return [
        n for our, their in parts.items() for n in _linear(f"{ours}.{our}", f"{native}.{their}")
    ]


def _layer_norm(ours: str, native: str) -> list[Name]:
    return [Name(f"{ours}.scale", f"{native}.weight"), Name(f"{ours}.bias", f"{native}.bias")]


def _vit_names() -> list[Name]:
    return [
        *_linear("vit.patch_embedding", f"{VIT}.patch_embedding"),
        Name("vit.position_embedding", f"{VIT}.positional_embedding"),
        *_layer_norm("vit.blocks.attention_norm", f"{VIT_BLOCK}.attention_norm"),
        *_multi_head("vit.blocks.attention", f"{VIT_BLOCK}.attention"),
        *_layer_norm("vit.blocks.mlp_norm", f"{VIT_BLOCK}.ffn_norm"),
        *_linear("vit.blocks.mlp.up", f"{VIT_BLOCK}.feed_forward.w1"),
        *_linear("vit.blocks.mlp.down", f"{VIT_BLOCK}.feed_forward.w2"),
    ]


def _scorer_names() -> list[Name]:
    return [
        *_multi_head("scorer.pooler", f"{SCORER}.patch_token_pooler"),
        *_linear("scorer.first", f"{SCORER}.mlp.w1"),
        *_linear("scorer.second", f"{SCORER}.mlp.w2"),
        *_linear("scorer.last", f"{SCORER}.mlp.w3"),
    ]


def _connector_names() -> list[Name]:
    projector = "vision_backbone.image_projector"
    return [
        *_multi_head("connector.pooler", "vision_backbone.image_pooling_2d"),
        *_linear("connector.projector.gate", f"{projector}.w1", bias=False),
        *_linear("connector.projector.down", f"{projector}.w2", bias=False),
        *_linear("connector.projector.up", f"{projector}.w3", bias=False),
    ]


def _llm_names(config: ModelConfig) -> list[Name]:
    llm = config.llm
    query, key_value, hidden = llm.heads * llm.head_dim, llm.kv_heads * llm.head_dim, llm.mlp_width
    blocks = "llm.blocks"
    bounds = np.cumsum([0, query, key_value, key_value]).tolist()
    names = [
        Name("llm.embedding", "transformer.wte.embedding"),
        Name("llm.extra_embedding", "transformer.wte.new_embedding"),
        Name("llm.final_norm.scale", "transformer.ln_f.weight"),
        *(
            Name(
                f"{blocks}.{part}.kernel",
                f"{LLM_BLOCK}.att_proj.weight",
                transpose=True,
                rows=(bounds[i], bounds[i + 1]),
            )
            for i, part in enumerate(("query", "key", "value"))
        ),
        *_linear(f"{blocks}.output", f"{LLM_BLOCK}.attn_out", bias=False),
        # Up comes first in the fused tensor, gate second.
        Name(f"{blocks}.mlp.up.kernel", f"{LLM_BLOCK}.ff_proj.weight", True, (0, hidden)),
        Name(
            f"{blocks}.mlp.gate.kernel", f"{LLM_BLOCK}.ff_proj.weight", True, (hidden, 2 * hidden)
        ),
        *_linear(f"{blocks}.mlp.down", f"{LLM_BLOCK}.ff_out", bias=False),
        Name(f"{blocks}.attention_norm.scale", f"{LLM_BLOCK}.attn_norm.weight"),
        Name(f"{blocks}.mlp_norm.scale", f"{LLM_BLOCK}.ff_norm.weight"),
    ]
    if llm.qk_norm != "none":
        names.append(Name(f"{blocks}.query_norm.scale", f"{LLM_BLOCK}.q_norm.weight"))
        names.append(Name(f"{blocks}.key_norm.scale", f"{LLM_BLOCK}.k_norm.weight"))
    if not llm.tied_head:
        names.append(Name("llm.head", "transformer.ff_out.weight", transpose=True))
    return names


def from_native(model: M, arrays: Mapping[str, np.ndarray], table: tuple[Name, ...]) -> M:
    """A copy of `model` (real or abstract) filled from native arrays.

    Raises:
      ValueError: one message that lists every native tensor that is missing, unread or misshapen,
        and every parameter that nothing fills.
    """
    rows = {name.ours: name for name in table}
    problems: list[str] = []
    read: set[str] = set()

    def fill(path: Any, leaf: Any) -> Any:
        ours = parameter_name(path)
        if ours not in rows:
            problems.append(f"{ours}: nothing fills it")
            return leaf
        try:
            array = _read(rows[ours], arrays, leaf, read)
        except KeyError as error:
            problems.append(f"{ours}: {error.args[0]} is missing")
            return leaf
        if array.shape != leaf.shape:
            problems.append(f"{ours}: shape {array.shape}, but the model wants {leaf.shape}")
        return array

    filled = jax.tree_util.tree_map_with_path(fill, model)
    problems += [f"{name}: nobody reads it" for name in sorted(set(arrays) - read)]
    if problems:
        raise ValueError("the checkpoint does not fit the model:\n  " + "\n  ".join(problems))
    return filled


def _read(name: Name, arrays: Mapping[str, np.ndarray], leaf: Any, read: set[str]) -> np.ndarray:
    def one(native: str) -> np.ndarray:
        array = arrays[native]
        read.add(native)
        if name.rows is not None:
            array = array[slice(*name.rows)]
        return array.T if name.transpose else array

    if "{layer}" not in name.native:
        return one(name.native)
    return np.stack([one(name.native.format(layer=i)) for i in range(leaf.shape[0])])


def to_native(model: Any, table: tuple[Name, ...]) -> dict[str, np.ndarray]:
    """Native arrays of a model, or of anything shaped like it (gradients)."""
    ours = named_parameters(model)
    parts: dict[str, list[tuple[int, np.ndarray]]] = {}
    for name in table:
        array = np.asarray(ours[name.ours])
        layers = array if "{layer}" in name.native else array[None]
        for index, layer in enumerate(layers):
            start = name.rows[0] if name.rows else 0
            part = (start, layer.T if name.transpose else layer)
            parts.setdefault(name.native.format(layer=index), []).append(part)
    return {
        native: np.concatenate([array for _, array in sorted(found, key=lambda part: part[0])])
        for native, found in parts.items()
    }
