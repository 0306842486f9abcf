"""Our model configuration from the reference's (`config.yaml` of native checkpoints)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from convert.fields import MOST_LAYERS, MOST_WINDOW, Fields
from stts_jax.config import (
    Bidirectional,
    ConfigError,
    ConnectorConfig,
    LlmConfig,
    ModelConfig,
    PruneConfig,
    PruneMethod,
    VitConfig,
    YarnConfig,
    replace,
)

DEFAULT_VIDEO_POOLING = 3
DEFAULT_IMAGE_POOLING = 2
# What the reference calls the forms of query and key norms.
QK_NORMS = {"qwen3": "head", "olmo": "full"}
_METHODS = {method: method for method in get_args(PruneMethod)}
_MODES = {mode: mode for mode in get_args(Bidirectional)}
# The reference counts 81 tokens for every frame, whatever its grid.
REFERENCE_TOKENS_PER_FRAME = 81


def vit_config(vit: Fields, feature_layers: tuple[int, ...] = (-1,)) -> VitConfig:
    """Returns our configuration of the reference's `VitConfig` or `TemporalVitConfig`."""
    vit.choice("image_model_type", {"siglip": None})
    return VitConfig(
        image_size=vit.side("image_default_input_size"),
        patch_size=vit.whole("image_patch_size"),
        width=vit.whole("image_emb_dim"),
        heads=vit.whole("image_num_heads"),
        head_dim=vit.whole("image_head_dim"),
        mlp_width=vit.whole("image_mlp_dim"),
        layers=vit.whole("image_num_layers", most=MOST_LAYERS),
        feature_layers=feature_layers,
        positions=vit.whole("image_num_pos"),
        norm_epsilon=vit.number("image_norm_eps"),
    )


def prune_config(vit: Fields, pooling: int = 3) -> PruneConfig:
    """Returns our pruning fields of `TemporalVitConfig`; a plain ViT prunes nothing."""
    if "prune_method" not in vit or not vit.flag("prune", default=True):
        return PruneConfig(pooling=pooling)
    grid = vit.side("image_default_input_size") // vit.whole("image_patch_size")
    tokens_per_frame = max(1, (-(-grid // pooling)) ** 2)
    topk = vit.number("topk")
    counted = topk * REFERENCE_TOKENS_PER_FRAME / tokens_per_frame
    return replace(
        PruneConfig(),
        {
            "method": vit.choice("prune_method", _METHODS),
            # On a small grid the reference would count more tokens than there are; nobody means
            # that.
            "topk": counted if counted < 1 else topk,
            "prune_at": vit.whole("prune_at", least=0, most=MOST_LAYERS),
            "pooling": pooling,
            "pruning_in_scorer": vit.flag("pruning_in_scorer"),
            "prune_from_frame": vit.whole("prune_from_frame", least=0),
            "rescale_bias_min": vit.number("rescale_bias_min"),
            "loss_coefficient": vit.number("sim_reg_loss_coefficient"),
            "new_reference_threshold": vit.number("new_ref_threshold", least=-1.0),
            "layout": "first_fit",
        },
    )


def _require_one_ratio(preprocessor: Fields, vit: Fields) -> None:
    """Raises where two ratios are stated that differ.

    Source: docs/reference.md#settings-of-pruning.
    """
    stated = preprocessor.number("topk", default=None)
    if stated is None:
        stated = preprocessor.table("video", default={}).number("topk", default=None)
    found = vit.number("topk", default=None)
    if stated is not None and found is not None and stated != found:
        raise ConfigError(
            f"mm_preprocessor says topk={stated}, but vision_backbone.vit says {found}; "
            "fix the one that the weights were not trained with"
        )


def connector_config(backbone: Fields, llm: Fields, image_pooling: int = 2) -> ConnectorConfig:
    """Returns our connector; the projector is half as wide as the fused LLM MLP."""
    backbone.choice("image_pooling_2d", {"attention_meanq": None}, default=None)
    backbone.choice("image_projector", {"mlp": None}, default=None)
    vit = backbone.table("vit")
    return ConnectorConfig(
        heads=vit.whole("image_num_heads"),
        head_dim=vit.whole("image_head_dim"),
        width=vit.whole("image_emb_dim"),
        mlp_width=llm.whole("mlp_hidden_size", least=2) // 2,
        pooling_attention_mask=backbone.flag("pooling_attention_mask", default=False),
        image_pooling=image_pooling,
    )


def llm_config(llm: Fields, bidirectional: Bidirectional) -> LlmConfig:
    """Returns our configuration of the reference's `LlmConfig`.

    The defaults are those of olmo/nn/llm.py: configurations from before a setting came don't
    mention it.
    """
    biases = llm.flag("include_bias") or llm.flag("qkv_bias", default=False)
    if biases or llm.text("layer_norm_type") != "rms":
        raise ConfigError(
            "the language model has biases or layer norms; only RMS norms can be read"
        )
    heads, width = llm.whole("n_heads"), llm.whole("d_model")
    layers = llm.whole("n_layers", most=MOST_LAYERS)
    return LlmConfig(
        vocab_size=llm.whole("embedding_size", "vocab_size"),
        extra_vocab_size=llm.whole("additional_vocab_size", default=128, least=0),
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=llm.whole("n_kv_heads", default=heads),
        head_dim=llm.whole("head_dim", default=max(1, width // heads)),
        mlp_width=llm.whole("mlp_hidden_size", least=2) // 2,
        norm_epsilon=llm.number("layer_norm_eps"),
        norm_position="post" if llm.flag("norm_after", default=False) else "pre",
        qk_norm=llm.choice("attention_layer_norm_type", QK_NORMS, default=QK_NORMS["olmo"])
        if llm.flag("attention_layer_norm")
        else "none",
        rope_theta=llm.number("rope_theta"),
        yarn=_yarn(llm, layers),
        tied_head=llm.flag("weight_tying"),
        bidirectional=bidirectional,
        max_positions=llm.whole("max_position_embeddings", "max_sequence_length", most=MOST_WINDOW),
        residual_dropout=llm.number("residual_dropout", default=0.1),
        response_residual_dropout=llm.number("response_residual_dropout", default=0.0),
    )


def _yarn(llm: Fields, count: int) -> YarnConfig | None:
    if not llm.choice("rope_type", {"default": False, "yarn": True}, default=False):
        return None
    chosen = llm.wholes("full_attention_layers", default=None, least=0, most=count)
    layers = set(range(count) if chosen is None else chosen)
    if chosen is not None and llm.flag("sliding_attention_rope_scaling", default=False):
        layers = set(range(count)) - layers
    return YarnConfig(
        layers=tuple(sorted(layers)),
        factor=llm.number("rope_factor"),
        original_length=llm.whole("rope_original_max_position_embeddings", most=MOST_WINDOW),
        beta_fast=llm.number("rope_beta_fast", default=32.0),
        beta_slow=llm.number("rope_beta_slow", default=1.0),
        attention_factor=llm.number("rope_attention_factor", default=None),
    )


def poolings(preprocessor: Fields) -> tuple[int, int]:
    """Side of the windows that patches of a video and of an image are pooled in.

    Older configurations have no table for videos; there, the preprocessor's own window is that of
    videos, and images are pooled in windows of 2.
    """
    video = preprocessor.table("video", default=preprocessor.plain())
    sides = []
    for fields, default in (
        (video, DEFAULT_VIDEO_POOLING),
        (preprocessor.table("image", default={}), DEFAULT_IMAGE_POOLING),
    ):
        height, width = (fields.whole(f"pooling_{side}", default=None) for side in "hw")
        if height != width:
            raise ConfigError(
                f"pooling_h is {height} and pooling_w is {width}; only square windows can be read"
            )
        sides.append(height or default)
    return sides[0], sides[1]


def _tables(native: Mapping[str, Any]) -> tuple[Fields, Fields, Fields]:
    """The whole, the vision backbone and the language model."""
    fields = Fields(native)
    if "llm" not in fields or "vision_backbone" not in fields:
        raise ConfigError(
            "it has no tables `llm` and `vision_backbone`: it is of Molmo 1 or no model at all"
        )
    return fields, fields.table("vision_backbone"), fields.table("llm")


def layers_of(native: Mapping[str, Any]) -> tuple[int, int]:
    """Layers that a `model` table states, of the language model and of the ViT."""
    _, backbone, llm = _tables(native)
    return (
        llm.whole("n_layers", most=MOST_WINDOW),
        backbone.table("vit").whole("image_num_layers", most=MOST_WINDOW),
    )


def model_config(native: Mapping[str, Any]) -> ModelConfig:
    """Returns our configuration of the `model` table of a native `config.yaml`, new or old.

    Raises:
      ConfigError: if it asks for something that can't be built.
    """
    fields, backbone, llm = _tables(native)
    preprocessor = fields.table("mm_preprocessor", default={})
    video, image = poolings(preprocessor)
    vit = backbone.table("vit")
    _require_one_ratio(preprocessor, vit)
    layers = backbone.wholes("vit_layers", least=-MOST_LAYERS, most=MOST_LAYERS)
    return ModelConfig(
        vit=vit_config(vit, layers),
        prune=prune_config(vit, video),
        connector=connector_config(backbone, llm, image),
        llm=llm_config(llm, fields.choice("bi_directional_attn", _MODES, default="none")),
    )
