"""Our model configuration from `config.json` of a Hugging Face folder, and back.

Released folders (and the reference's converter) write one form, transformers 5 writes another and
reads both; see docs/reference.md#hugging-faces-configuration. What neither holds is passed in: who
sees whom, the window of video
pooling, and whether the head is the embedding (both always store a head).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from convert.fields import MOST_LAYERS, MOST_WINDOW, Fields
from convert.reference_config import QK_NORMS
from stts_jax.config import (
    SPECIAL_TOKENS,
    Bidirectional,
    ConfigError,
    ConnectorConfig,
    LlmConfig,
    ModelConfig,
    PruneConfig,
    VitConfig,
    YarnConfig,
    replace,
)
from stts_jax.quoting import shorten

# Field of our pruning settings: no Hugging Face class knows it, and all of them keep it.
PRUNE_KEY = "stts_prune_config"
# Who sees whom, where it isn't what Hugging Face's code does.
BIDIRECTIONAL_KEY = "stts_bidirectional"
_TOKEN_KEYS = {
    "image_start_token_id": "<im_start>",
    "image_end_token_id": "<im_end>",
    "image_patch_id": "<im_patch>",
    "image_high_res_id": "<im_patch>",
    "image_col_id": "<im_col>",
    "low_res_image_start_token_id": "<low_res_im_start>",
    "image_low_res_id": "<im_low>",
    "frame_start_token_id": "<frame_start>",
    "frame_end_token_id": "<frame_end>",
}


def model_config_from_hf(
    config: Mapping[str, Any],
    *,
    tied_head: bool,
    bidirectional: Bidirectional = "image_tokens",
    video_pooling: int = 3,
    image_pooling: int = 2,
) -> ModelConfig:
    """Returns our configuration of the JSON of a Molmo2 folder.

    Args:
      config: the parsed file.
      tied_head: whether the stored head is a copy of the embedding.
      bidirectional: which image tokens see each other; the file doesn't say, Hugging Face's code
        always lets all of them.
      video_pooling, image_pooling: side of the windows that patches are pooled in.

    Raises:
      ConfigError: if it is no Molmo2, or one that can't be built.
    """
    fields = Fields(config)
    _require_molmo2(fields)
    adapter = fields.table("adapter_config")
    llm = _llm(fields.table("text_config"), tied_head, bidirectional)
    _require_token_ids(fields, llm.vocab_size)
    # Where the field of the first name is missing, the file is transformers 5's.
    layers = adapter.wholes(
        "vit_layers", "vision_feature_layer", least=-MOST_LAYERS, most=MOST_LAYERS
    )
    return ModelConfig(
        vit=_vit(fields.table("vit_config", "vision_config"), layers),
        prune=_prune(fields, video_pooling),
        connector=ConnectorConfig(
            heads=adapter.whole("num_attention_heads"),
            head_dim=adapter.whole("head_dim"),
            width=adapter.whole("hidden_size"),
            mlp_width=adapter.whole("intermediate_size"),
            pooling_attention_mask=adapter.flag("pooling_attention_mask"),
            image_pooling=image_pooling,
        ),
        llm=llm,
    )


def states_tied_head(config: Mapping[str, Any]) -> bool:
    """Whether the JSON of a folder says that the head is the embedding; by default it isn't."""
    fields = Fields(config)
    text = fields.table("text_config", default={})
    return fields.flag(
        "tie_word_embeddings", default=text.flag("tie_word_embeddings", default=False)
    )


def layers_of(config: Mapping[str, Any]) -> tuple[int, int]:
    """Layers that the JSON of a folder states, of the language model and of the ViT."""
    fields = Fields(config)
    _require_molmo2(fields)
    parts = (fields.table("text_config"), fields.table("vit_config", "vision_config"))
    text, vit = (part.whole("num_hidden_layers", most=MOST_WINDOW) for part in parts)
    return text, vit


def _require_molmo2(fields: Fields) -> None:
    kind = fields.text("model_type", default="")
    if kind != "molmo2":
        raise ConfigError(
            f"model_type is {shorten(kind)}; only 'molmo2' folders can be converted "
            "(for a vision tower or language model alone use --init)"
        )


def _vit(vit: Fields, feature_layers: tuple[int, ...]) -> VitConfig:
    vit.choice("hidden_act", {"gelu_pytorch_tanh": None})
    return VitConfig(
        image_size=vit.side("image_default_input_size", "image_size"),
        patch_size=vit.whole("image_patch_size", "patch_size"),
        width=vit.whole("hidden_size"),
        heads=vit.whole("num_attention_heads"),
        head_dim=vit.whole("head_dim"),
        mlp_width=vit.whole("intermediate_size"),
        layers=vit.whole("num_hidden_layers", most=MOST_LAYERS),
        feature_layers=feature_layers,
        positions=vit.whole("image_num_pos", "num_position_embeddings"),
        norm_epsilon=vit.number("layer_norm_eps"),
    )


def _prune(fields: Fields, pooling: int) -> PruneConfig:
    stated = fields.table(PRUNE_KEY, default={}).plain()
    try:  # `replace` refuses unknown names and wrong types
        return replace(PruneConfig(pooling=pooling), stated)
    except ConfigError as error:
        raise ConfigError(f"'{PRUNE_KEY}' of config.json cannot be read: {error}") from error


def _llm(text: Fields, tied_head: bool, bidirectional: Bidirectional) -> LlmConfig:
    if text.flag("qkv_bias", "attention_bias", default=False):
        raise ConfigError("text_config asks for biases in attention; only models without are read")
    rope = text.table("rope_parameters", "rope_scaling", default={})
    layers = text.whole("num_hidden_layers", most=MOST_LAYERS)
    qk_norm: Any = text.choice("qk_norm_type", QK_NORMS) if text.flag("use_qk_norm") else "none"
    return LlmConfig(
        vocab_size=text.whole("vocab_size"),
        extra_vocab_size=text.whole("additional_vocab_size", least=0),
        width=text.whole("hidden_size"),
        layers=layers,
        heads=text.whole("num_attention_heads"),
        kv_heads=text.whole("num_key_value_heads"),
        head_dim=text.whole("head_dim"),
        mlp_width=text.whole("intermediate_size"),
        norm_epsilon=text.number("layer_norm_eps", "rms_norm_eps"),
        norm_position="post" if text.flag("norm_after") else "pre",
        qk_norm=qk_norm,
        rope_theta=(rope if "rope_theta" in rope else text).number("rope_theta"),
        yarn=_yarn(rope, text, layers),
        tied_head=tied_head,
        bidirectional=bidirectional,
        max_positions=text.whole("max_position_embeddings", most=MOST_WINDOW),
    )


def _yarn(rope: Fields, text: Fields, count: int) -> YarnConfig | None:
    if not rope.choice("rope_type", {"default": False, "yarn": True}, default=False):
        return None
    return YarnConfig(
        layers=text.wholes("rope_scaling_layers", default=tuple(range(count)), least=0, most=count),
        factor=rope.number("factor"),
        original_length=rope.whole("original_max_position_embeddings", most=MOST_WINDOW),
        beta_fast=rope.number("beta_fast", default=32.0),
        beta_slow=rope.number("beta_slow", default=1.0),
        attention_factor=rope.number("attention_factor", default=None),
    )


def _require_token_ids(fields: Fields, vocabulary: int) -> None:
    """The extra tokens are numbered from the vocabulary on; other numbers would be misread."""
    for key, token in _TOKEN_KEYS.items():
        wanted = vocabulary + SPECIAL_TOKENS.index(token)
        found = fields.whole(key, default=wanted, least=0, most=MOST_WINDOW)
        if found != wanted:
            raise ConfigError(
                f"{key} is {found} in config.json, but {token} is token {wanted} of this "
                f"vocabulary of {vocabulary}; the file and its weights don't belong together"
            )


# ------------------------------------------------------------------------------- the way back


def hf_config_of(model: ModelConfig, dtype: str) -> dict[str, Any]:
    """`config.json` in the released form, which the released code and transformers 5 both read.

    What Hugging Face's code doesn't know is under keys of our own: how the model prunes,
    and who sees whom if not all image tokens each other.
    """
    vit, connector, llm = model.vit, model.connector, model.llm
    ids = {key: llm.vocab_size + SPECIAL_TOKENS.index(token) for key, token in _TOKEN_KEYS.items()}
    config: dict[str, Any] = {
        "architectures": ["Molmo2ForConditionalGeneration"],
        "model_type": "molmo2",
        "dtype": dtype,
        "tie_word_embeddings": False,
        "use_frame_special_tokens": False,
        "initializer_range": 0.02,
        **ids,
        "vit_config": {
            "model_type": "molmo2",
            "hidden_size": vit.width,
            "intermediate_size": vit.mlp_width,
            "num_hidden_layers": vit.layers,
            "num_attention_heads": vit.heads,
            "num_key_value_heads": vit.heads,
            "head_dim": vit.head_dim,
            "hidden_act": "gelu_pytorch_tanh",
            "layer_norm_eps": vit.norm_epsilon,
            "image_default_input_size": [vit.image_size, vit.image_size],
            "image_patch_size": vit.patch_size,
            "image_num_pos": vit.positions,
            "attention_dropout": 0.0,
            "residual_dropout": 0.0,
            "float32_attention": True,
        },
        "adapter_config": {
            "model_type": "molmo2",
            "vit_layers": list(vit.feature_layers),
            "pooling_attention_mask": connector.pooling_attention_mask,
            "hidden_size": connector.width,
            "num_attention_heads": connector.heads,
            "num_key_value_heads": connector.heads,
            "head_dim": connector.head_dim,
            "intermediate_size": connector.mlp_width,
            "text_hidden_size": llm.width,
            "hidden_act": "silu",
            "attention_dropout": 0.0,
            "residual_dropout": 0.0,
            "image_feature_dropout": 0.0,
            "float32_attention": True,
        },
        "text_config": _text_config(llm),
    }
    if model.prune.method != "none":
        config[PRUNE_KEY] = dataclasses.asdict(model.prune)
    if llm.bidirectional != "image_tokens":
        config[BIDIRECTIONAL_KEY] = llm.bidirectional
    return config


def _text_config(llm: LlmConfig) -> dict[str, Any]:
    text: dict[str, Any] = {
        "model_type": "molmo2_text",
        "hidden_size": llm.width,
        "num_hidden_layers": llm.layers,
        "num_attention_heads": llm.heads,
        "num_key_value_heads": llm.kv_heads,
        "head_dim": llm.head_dim,
        "vocab_size": llm.vocab_size,
        "additional_vocab_size": llm.extra_vocab_size,
        "intermediate_size": llm.mlp_width,
        "hidden_act": "silu",
        "qkv_bias": False,
        "use_qk_norm": llm.qk_norm != "none",
        "qk_norm_type": "olmo" if llm.qk_norm == "full" else "qwen3",
        "layer_norm_eps": llm.norm_epsilon,
        "norm_after": llm.norm_position == "post",
        "max_position_embeddings": llm.max_positions,
        "rope_theta": llm.rope_theta,
        "rope_scaling": None,
        "rope_scaling_layers": None,
        "embedding_dropout": 0.0,
        "attention_dropout": 0.0,
        "residual_dropout": 0.0,
        "tie_word_embeddings": False,
        "use_cache": True,
    }
    if llm.yarn is not None:
        text["rope_scaling_layers"] = list(llm.yarn.layers)
        text["rope_scaling"] = {
            "rope_type": "yarn",
            "rope_theta": llm.rope_theta,
            "factor": llm.yarn.factor,
            "original_max_position_embeddings": llm.yarn.original_length,
            "beta_fast": llm.yarn.beta_fast,
            "beta_slow": llm.yarn.beta_slow,
            "attention_factor": llm.yarn.attention_factor,
        }
    return text
