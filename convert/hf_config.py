"""Our model configuration from `config.json` of a Hugging Face folder, and back.

Released folders (and the reference's converter) write one form, transformers 5 writes another and
reads both; see MODEL 1.5. What neither holds is passed in: who sees whom, the window of video
pooling, and whether the head is the embedding (both always store a head).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

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
)

# Our pruning, in a place of its own: no Hugging Face class knows it, and all of them leave it be.
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
    """From the JSON of a Molmo2 folder.

    Args:
      config: the parsed file.
      tied_head: whether the stored head is a copy of the embedding.
      bidirectional: which image tokens see each other; the file doesn't say, Hugging Face's code
        always lets all of them.
      video_pooling, image_pooling: side of the windows that patches are pooled in.

    Raises:
      ConfigError: if it is no Molmo2, or one that can't be built.
    """
    if config.get("model_type") != "molmo2":
        raise ConfigError(
            f"model_type is {config.get('model_type')!r}; only 'molmo2' folders can be converted "
            "(for a vision tower or language model alone use --init)"
        )
    text, adapter = config["text_config"], config["adapter_config"]
    llm = _llm(text, tied_head, bidirectional)
    _require_token_ids(config, llm.vocab_size)
    # Where the field of this name is missing, the file is transformers 5's.
    layers = adapter.get("vit_layers", adapter.get("vision_feature_layer"))
    return ModelConfig(
        vit=_vit(config.get("vit_config") or config["vision_config"], tuple(layers)),
        prune=_prune(config, video_pooling),
        connector=ConnectorConfig(
            heads=adapter["num_attention_heads"],
            head_dim=adapter["head_dim"],
            width=adapter["hidden_size"],
            mlp_width=adapter["intermediate_size"],
            pooling_attention_mask=adapter["pooling_attention_mask"],
            image_pooling=image_pooling,
        ),
        llm=llm,
    )


def _vit(vit: Mapping[str, Any], feature_layers: tuple[int, ...]) -> VitConfig:
    if vit["hidden_act"] != "gelu_pytorch_tanh":
        raise ConfigError(
            f"the ViT's hidden_act is {vit['hidden_act']!r}; only 'gelu_pytorch_tanh' can be read"
        )
    size = vit.get("image_default_input_size", vit.get("image_size"))
    return VitConfig(
        image_size=size if isinstance(size, int) else size[0],
        patch_size=vit.get("image_patch_size", vit.get("patch_size")),
        width=vit["hidden_size"],
        heads=vit["num_attention_heads"],
        head_dim=vit["head_dim"],
        mlp_width=vit["intermediate_size"],
        layers=vit["num_hidden_layers"],
        feature_layers=feature_layers,
        positions=vit.get("image_num_pos", vit.get("num_position_embeddings")),
        norm_epsilon=vit["layer_norm_eps"],
    )


def _prune(config: Mapping[str, Any], pooling: int) -> PruneConfig:
    prune = config.get(PRUNE_KEY)
    if prune is None:
        return PruneConfig(pooling=pooling)
    try:
        return PruneConfig(**prune)
    except TypeError as error:
        raise ConfigError(f"'{PRUNE_KEY}' of config.json cannot be read: {error}") from error


def _llm(text: Mapping[str, Any], tied_head: bool, bidirectional: Bidirectional) -> LlmConfig:
    if text.get("qkv_bias", text.get("attention_bias", False)):
        raise ConfigError("text_config asks for biases in attention; only models without are read")
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    return LlmConfig(
        vocab_size=text["vocab_size"],
        extra_vocab_size=text["additional_vocab_size"],
        width=text["hidden_size"],
        layers=text["num_hidden_layers"],
        heads=text["num_attention_heads"],
        kv_heads=text["num_key_value_heads"],
        head_dim=text["head_dim"],
        mlp_width=text["intermediate_size"],
        norm_epsilon=text.get("layer_norm_eps", text.get("rms_norm_eps")),
        norm_position="post" if text["norm_after"] else "pre",
        qk_norm=QK_NORMS[text["qk_norm_type"]] if text["use_qk_norm"] else "none",
        rope_theta=float(rope.get("rope_theta") or text["rope_theta"]),
        yarn=_yarn(rope, text.get("rope_scaling_layers"), text["num_hidden_layers"]),
        tied_head=tied_head,
        bidirectional=bidirectional,
        max_positions=text["max_position_embeddings"],
    )


def _yarn(rope: Mapping[str, Any], layers: list[int] | None, count: int) -> YarnConfig | None:
    kind = rope.get("rope_type", "default")
    if kind == "default":
        return None
    if kind != "yarn":
        raise ConfigError(f"rope_type is {kind!r}; only 'default' and 'yarn' can be read")
    factor = rope.get("attention_factor")
    return YarnConfig(
        layers=tuple(range(count) if layers is None else layers),
        factor=float(rope["factor"]),
        original_length=rope["original_max_position_embeddings"],
        beta_fast=float(rope.get("beta_fast") or 32.0),
        beta_slow=float(rope.get("beta_slow") or 1.0),
        attention_factor=None if factor is None else float(factor),
    )


def _require_token_ids(config: Mapping[str, Any], vocabulary: int) -> None:
    """The extra tokens are numbered from the vocabulary on; other numbers would be misread."""
    for key, token in _TOKEN_KEYS.items():
        wanted = vocabulary + SPECIAL_TOKENS.index(token)
        if config.get(key, wanted) != wanted:
            raise ConfigError(
                f"{key} is {config[key]} in config.json, but {token} is token {wanted} of this "
                f"vocabulary of {vocabulary}; the file and its weights don't belong together"
            )


# ------------------------------------------------------------------------------- the way back


def hf_config_of(model: ModelConfig, dtype: str) -> dict[str, Any]:
    """`config.json` in the released form, which the released code and transformers 5 both read.

    What Hugging Face's code knows nothing of stands under keys of our own: how the model prunes,
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
