"""The table of names: what each of our parameters is called in checkpoints of other systems.

Source: olmo/nn of allenai/molmo2 and transformers 5 (docs/reference.md#names-of-parameters). Torch
stores linear weights as
(out, in), we as (in, out); the reference fuses q, k, v and up, gate into one tensor each, we keep
them apart; all others number layers in the name, we stack them along a leading axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from stts_jax.config import ModelConfig

# Columns of the table.
NATIVE = "native"  # the reference's own checkpoints
HF = "hf"  # released Hugging Face folders, and what transformers 5 writes by default
TRANSFORMERS = "transformers"  # the names of transformers' modules
SIGLIP = "siglip"  # a vision tower alone, as transformers has it
QWEN3 = "qwen3"  # a language model alone, as transformers has it
OLMO3 = "olmo3"
COLUMNS = (NATIVE, HF, TRANSFORMERS, SIGLIP, QWEN3, OLMO3)

VIT = "vision_backbone.image_vit"
VIT_BLOCK = f"{VIT}.transformer.resblocks.{{layer}}"
SCORER = f"{VIT}.transformer.temporal_token_scorer"
LLM_BLOCK = "transformer.blocks.{layer}"
# A checkpoint whose head is tied has no tensor for it; HF writes a copy of the
# embedding under this name all the same.
HF_HEAD = "lm_head.weight"

Bounds = tuple[int, int]


@dataclass(frozen=True)
class Name:
    """One row of the table. A column that is empty has no such tensor.

    Attributes:
      ours: dotted name of our parameter.
      native: the reference's name; `{layer}` if ours is stacked over layers.
      transpose: whether the two are transposes of each other.
      rows: first and last + 1 row of the (untransposed) tensor, if ours is a part of it; of the
        columns `native` and `hf`, which fuse the same things.
      hf, transformers, siglip, qwen3, olmo3: names in the other columns.
      transformers_rows: as `rows`, for the column `transformers`.
    """

    ours: str
    native: str
    transpose: bool = False
    rows: Bounds | None = None
    hf: str = ""
    transformers: str = ""
    transformers_rows: Bounds | None = None
    siglip: str = ""
    qwen3: str = ""
    olmo3: str = ""

    def in_column(self, column: str) -> tuple[str, Bounds | None]:
        """Name in a column, and the rows there."""
        rows = {NATIVE: self.rows, HF: self.rows, TRANSFORMERS: self.transformers_rows}
        return getattr(self, column), rows.get(column)


def name_table(config: ModelConfig) -> tuple[Name, ...]:
    """All parameters of a model of this configuration."""
    table = [*_vit_names(), *_connector_names(), *_llm_names(config)]
    return (*table, *_scorer_names()) if config.prune.method == "scorer" else tuple(table)


def unused_vit_blocks(config: ModelConfig, column: str) -> tuple[str, ...]:
    """Names of the tensors of ViT blocks after the last one whose features are used."""
    return tuple(
        name.in_column(column)[0].format(layer=layer)
        for name in name_table(config)
        if name.ours.startswith("vit.blocks.")
        for layer in range(config.vit.depth, config.vit.layers)
    )


# What a linear layer, norm or plain tensor is called in the columns, without `.weight`. Where no
# `hf` is given, it is the native name after `model.`.
Columns = dict[str, str]


def _plain(ours: str, columns: Columns, transpose: bool = False) -> Name:
    columns = {HF: f"model.{columns[NATIVE]}", **columns}
    return Name(ours=ours, transpose=transpose, **dict[str, Any](columns))


def _parts(ours: dict[str, str], columns: Columns, transpose: bool = False) -> list[Name]:
    """A layer of which ours has the parts `ours` (our name: the name in checkpoints)."""
    columns = {HF: f"model.{columns[NATIVE]}", **columns}
    return [
        _plain(our, {k: f"{v}.{their}" for k, v in columns.items()}, transpose and their != "bias")
        for our, their in ours.items()
    ]


def _linear(ours: str, columns: Columns, bias: bool = True) -> list[Name]:
    parts = {f"{ours}.kernel": "weight"} | ({f"{ours}.bias": "bias"} if bias else {})
    return _parts(parts, columns, transpose=True)


def _layer_norm(ours: str, columns: Columns) -> list[Name]:
    return _parts({f"{ours}.scale": "weight", f"{ours}.bias": "bias"}, columns)


def _rms_norm(ours: str, columns: Columns) -> list[Name]:
    return _parts({f"{ours}.scale": "weight"}, columns)


def _multi_head(ours: str, native: str, others: Columns) -> list[Name]:
    letters = {"query": "q", "key": "k", "value": "v", "output": "o"}

    def name(column: str, prefix: str, letter: str) -> str:
        # Only SigLIP spells the output projection out.
        return f"{prefix}.{'out' if column == SIGLIP and letter == 'o' else letter}_proj"

    return [
        entry
        for our, letter in letters.items()
        for entry in _linear(
            f"{ours}.{our}",
            {NATIVE: f"{native}.w{letter}"} | {c: name(c, p, letter) for c, p in others.items()},
        )
    ]


def _vit_names() -> list[Name]:
    tower, alone = "model.vision_tower", "vision_model"
    block, alone_block = f"{tower}.layers.{{layer}}", f"{alone}.encoder.layers.{{layer}}"

    def in_block(native: str, theirs: str) -> Columns:
        return {
            NATIVE: f"{VIT_BLOCK}.{native}",
            TRANSFORMERS: f"{block}.{theirs}",
            SIGLIP: f"{alone_block}.{theirs}",
        }

    return [
        *_linear(
            "vit.patch_embedding",
            {
                NATIVE: f"{VIT}.patch_embedding",
                TRANSFORMERS: f"{tower}.patch_embedding",
                SIGLIP: f"{alone}.embeddings.patch_embedding",
            },
        ),
        _plain(
            "vit.position_embedding",
            {
                NATIVE: f"{VIT}.positional_embedding",
                TRANSFORMERS: f"{tower}.positional_embedding",
                SIGLIP: f"{alone}.embeddings.position_embedding.weight",
            },
        ),
        *_layer_norm("vit.blocks.attention_norm", in_block("attention_norm", "layer_norm1")),
        *_multi_head(
            "vit.blocks.attention",
            f"{VIT_BLOCK}.attention",
            {TRANSFORMERS: f"{block}.self_attn", SIGLIP: f"{alone_block}.self_attn"},
        ),
        *_layer_norm("vit.blocks.mlp_norm", in_block("ffn_norm", "layer_norm2")),
        *_linear("vit.blocks.mlp.up", in_block("feed_forward.w1", "mlp.fc1")),
        *_linear("vit.blocks.mlp.down", in_block("feed_forward.w2", "mlp.fc2")),
    ]


def _scorer_names() -> list[Name]:
    """No Hugging Face class has a scorer; its tensors keep the reference's names there."""
    parts = {"query": "wq", "key": "wk", "value": "wv", "output": "wo"}
    layers = {f"pooler.{our}": f"patch_token_pooler.{their}" for our, their in parts.items()}
    layers |= {"first": "mlp.w1", "second": "mlp.w2", "last": "mlp.w3"}
    return [
        name
        for our, their in layers.items()
        for name in _linear(
            f"scorer.{our}",
            {NATIVE: f"{SCORER}.{their}", TRANSFORMERS: f"model.{SCORER}.{their}"},
        )
    ]


def _connector_names() -> list[Name]:
    native, theirs = "vision_backbone", "model.multi_modal_projector"
    projector = {"gate": ("w1", "gate_proj"), "down": ("w2", "down_proj"), "up": ("w3", "up_proj")}
    return [
        *_multi_head(
            "connector.pooler",
            f"{native}.image_pooling_2d",
            {TRANSFORMERS: f"{theirs}.image_pooling_2d"},
        ),
        *(
            name
            for our, (short, long) in projector.items()
            for name in _linear(
                f"connector.projector.{our}",
                {
                    NATIVE: f"{native}.image_projector.{short}",
                    TRANSFORMERS: f"{theirs}.image_projector.{long}",
                },
                bias=False,
            )
        ),
    ]


def _llm_names(config: ModelConfig) -> list[Name]:
    llm, blocks = config.llm, "llm.blocks"
    names = [
        *_embedding_names(llm.vocab_size, llm.extra_vocab_size),
        *_rms_norm("llm.final_norm", _llm_columns("transformer.ln_f", "norm")),
        *_fused_names(llm.heads * llm.head_dim, llm.kv_heads * llm.head_dim, llm.mlp_width),
        *_linear(f"{blocks}.output", _block("attn_out", "self_attn.o_proj", "self_attn"), False),
        *_linear(f"{blocks}.mlp.down", _block("ff_out", "mlp.down_proj", "mlp"), bias=False),
        *_norm_names(),
    ]
    if llm.qk_norm != "none":
        for our, letter in (("query_norm", "q"), ("key_norm", "k")):
            columns = _block(f"{letter}_norm", f"self_attn.{letter}_norm", "self_attn")
            names += _rms_norm(f"{blocks}.{our}", columns)
    if not llm.tied_head:
        head = dict.fromkeys((HF, TRANSFORMERS, QWEN3, OLMO3), HF_HEAD)
        names.append(_plain("llm.head", {NATIVE: "transformer.ff_out.weight", **head}, True))
    return names


def _llm_columns(native: str, theirs: str) -> Columns:
    alone = f"model.{theirs}"
    return {
        NATIVE: native,
        TRANSFORMERS: f"model.language_model.{theirs}",
        QWEN3: alone,
        OLMO3: alone,
    }


def _block(native: str, theirs: str, group: str) -> Columns:
    """Columns of a layer's tensor, which the released HF names put into a `group`."""
    return _llm_columns(f"{LLM_BLOCK}.{native}", f"layers.{{layer}}.{theirs}") | {
        HF: f"model.{LLM_BLOCK}.{group}.{native}"
    }


def _embedding_names(vocabulary: int, extra: int) -> list[Name]:
    both = "model.language_model.embed_tokens.weight"
    return [
        Name(
            "llm.embedding",
            "transformer.wte.embedding",
            hf="model.transformer.wte.embedding",
            transformers=both,
            transformers_rows=(0, vocabulary),
            qwen3="model.embed_tokens.weight",
            olmo3="model.embed_tokens.weight",
        ),
        Name(
            "llm.extra_embedding",
            "transformer.wte.new_embedding",
            hf="model.transformer.wte.new_embedding",
            transformers=both,
            transformers_rows=(vocabulary, vocabulary + extra),
        ),
    ]


def _fused_names(query: int, key_value: int, hidden: int) -> list[Name]:
    """Names of fused tensors. Of the MLP's two halves, up comes first and gate second."""
    bounds = np.cumsum([0, query, key_value, key_value]).tolist()
    fused = [
        (part, "att_proj", "self_attn", (bounds[i], bounds[i + 1]))
        for i, part in enumerate(("query", "key", "value"))
    ]
    fused += [
        ("mlp.up", "ff_proj", "mlp", (0, hidden)),
        ("mlp.gate", "ff_proj", "mlp", (hidden, 2 * hidden)),
    ]
    apart = {
        "query": "self_attn.q_proj",
        "key": "self_attn.k_proj",
        "value": "self_attn.v_proj",
        "mlp.up": "mlp.up_proj",
        "mlp.gate": "mlp.gate_proj",
    }
    return [
        Name(
            ours=f"llm.blocks.{part}.kernel",
            transpose=True,
            rows=rows,
            **dict[str, Any](
                {c: f"{n}.weight" for c, n in _block(native, apart[part], group).items()}
            ),
        )
        for part, native, group, rows in fused
    ]


def _norm_names() -> list[Name]:
    """Norms of the blocks, before (Qwen3) or after (OLMo3) attention and MLP."""
    after = {
        "attn_norm": "layers.{layer}.post_attention_layernorm",
        "ff_norm": "layers.{layer}.post_feedforward_layernorm",
    }
    before = {
        "attn_norm": "layers.{layer}.input_layernorm",
        "ff_norm": "layers.{layer}.post_attention_layernorm",
    }
    return [
        name
        for ours, native in (("attention_norm", "attn_norm"), ("mlp_norm", "ff_norm"))
        for name in _rms_norm(
            f"llm.blocks.{ours}",
            _llm_columns(f"{LLM_BLOCK}.{native}", before[native])
            | {OLMO3: f"model.{after[native]}"},
        )
    ]
