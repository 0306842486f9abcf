"""Our model configuration from the reference's (`config.yaml` of native checkpoints)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stts_jax.config import (
    ConfigError,
    ConnectorConfig,
    LlmConfig,
    ModelConfig,
    PruneConfig,
    VitConfig,
    YarnConfig,
)

DEFAULT_VIDEO_POOLING = 3
DEFAULT_IMAGE_POOLING = 2
# What the reference calls the forms of query and key norms.
QK_NORMS = {"qwen3": "head", "olmo": "full"}
# What configurations from before a setting came don't mention (olmo/nn/llm.py).
_LLM_DEFAULTS: Mapping[str, Any] = {
    "additional_vocab_size": 128,
    "attention_layer_norm_type": "olmo",
    "embedding_size": None,
    "full_attention_layers": None,
    "head_dim": None,
    "max_position_embeddings": None,
    "n_kv_heads": None,
    "norm_after": False,
    "qkv_bias": False,
    "residual_dropout": 0.1,
    "response_residual_dropout": 0.0,
    "rope_attention_factor": None,
    "rope_beta_fast": None,
    "rope_beta_slow": None,
    "rope_type": "default",
    "sliding_attention_rope_scaling": False,
}
_BACKBONE_DEFAULTS: Mapping[str, Any] = {
    "image_pooling_2d": "attention_meanq",
    "image_projector": "mlp",
    "pooling_attention_mask": False,
}
# The reference counts 81 tokens for every frame, whatever its grid.
REFERENCE_TOKENS_PER_FRAME = 81


def vit_config(vit: Mapping[str, Any], feature_layers: tuple[int, ...] = (-1,)) -> VitConfig:
    """From `VitConfig` or `TemporalVitConfig` of the reference."""
    if vit["image_model_type"] != "siglip":
        raise ConfigError(
            f"image_model_type is {vit['image_model_type']!r}; only 'siglip' can be read"
        )
    return VitConfig(
        image_size=vit["image_default_input_size"][0],
        patch_size=vit["image_patch_size"],
        width=vit["image_emb_dim"],
        heads=vit["image_num_heads"],
        head_dim=vit["image_head_dim"],
        mlp_width=vit["image_mlp_dim"],
        layers=vit["image_num_layers"],
        feature_layers=feature_layers,
        positions=vit["image_num_pos"],
        norm_epsilon=vit["image_norm_eps"],
    )


def prune_config(vit: Mapping[str, Any], pooling: int = 3) -> PruneConfig:
    """From the pruning fields of `TemporalVitConfig`; a plain ViT has none and prunes nothing."""
    if "prune_method" not in vit or not vit.get("prune", True):
        return PruneConfig(pooling=pooling)
    grid = vit["image_default_input_size"][0] // vit["image_patch_size"]
    tokens_per_frame = (-(-grid // pooling)) ** 2
    counted = vit["topk"] * REFERENCE_TOKENS_PER_FRAME / tokens_per_frame
    return PruneConfig(
        method=vit["prune_method"],
        # On a small grid the reference would count more tokens than there are; nobody means that.
        topk=counted if counted < 1 else vit["topk"],
        prune_at=vit["prune_at"],
        pooling=pooling,
        pruning_in_scorer=vit["pruning_in_scorer"],
        prune_from_frame=vit["prune_from_frame"],
        rescale_bias_min=vit["rescale_bias_min"],
        loss_coefficient=vit["sim_reg_loss_coefficient"],
        new_reference_threshold=vit["new_ref_threshold"],
        packing="first_fit",
    )


def _require_one_ratio(native: Mapping[str, Any], vit: Mapping[str, Any]) -> None:
    """The training setup states the ratio twice (MODEL 3.1); both must say the same."""
    preprocessor = native.get("mm_preprocessor") or {}
    stated = preprocessor.get("topk", preprocessor.get("video", {}).get("topk"))
    if stated is not None and "topk" in vit and stated != vit["topk"]:
        raise ConfigError(
            f"mm_preprocessor says topk={stated}, but vision_backbone.vit says {vit['topk']}; "
            "mend the one that the weights were not trained with"
        )


def connector_config(
    backbone: Mapping[str, Any], llm: Mapping[str, Any], image_pooling: int = 2
) -> ConnectorConfig:
    """From the vision backbone's fields; the projector is half as wide as the fused LLM MLP."""
    for name, wanted in (("image_pooling_2d", "attention_meanq"), ("image_projector", "mlp")):
        if backbone[name] != wanted:
            raise ConfigError(f"{name} is {backbone[name]!r}; only {wanted!r} can be read")
    vit = backbone["vit"]
    return ConnectorConfig(
        heads=vit["image_num_heads"],
        head_dim=vit["image_head_dim"],
        width=vit["image_emb_dim"],
        mlp_width=llm["mlp_hidden_size"] // 2,
        pooling_attention_mask=backbone["pooling_attention_mask"],
        image_pooling=image_pooling,
    )


def llm_config(llm: Mapping[str, Any], bidirectional: str | None) -> LlmConfig:
    """From the reference's `LlmConfig`."""
    if llm["include_bias"] or llm["qkv_bias"] or llm["layer_norm_type"] != "rms":
        raise ConfigError(
            "the language model has biases or layer norms; only RMS norms can be read"
        )
    return LlmConfig(
        vocab_size=llm["embedding_size"] or llm["vocab_size"],
        extra_vocab_size=llm["additional_vocab_size"],
        width=llm["d_model"],
        layers=llm["n_layers"],
        heads=llm["n_heads"],
        kv_heads=llm["n_kv_heads"] or llm["n_heads"],
        head_dim=llm["head_dim"] or llm["d_model"] // llm["n_heads"],
        mlp_width=llm["mlp_hidden_size"] // 2,
        norm_epsilon=llm["layer_norm_eps"],
        norm_position="post" if llm["norm_after"] else "pre",
        qk_norm=QK_NORMS[llm["attention_layer_norm_type"]]
        if llm["attention_layer_norm"]
        else "none",
        rope_theta=float(llm["rope_theta"]),
        yarn=_yarn(llm),
        tied_head=llm["weight_tying"],
        bidirectional=bidirectional or "none",
        max_positions=llm["max_position_embeddings"] or llm["max_sequence_length"],
        residual_dropout=llm["residual_dropout"],
        response_residual_dropout=llm["response_residual_dropout"],
    )


def _yarn(llm: Mapping[str, Any]) -> YarnConfig | None:
    if llm["rope_type"] == "default":
        return None
    if llm["rope_type"] != "yarn":
        raise ConfigError(f"rope_type is {llm['rope_type']!r}; only 'yarn' can be read")
    chosen = llm["full_attention_layers"]
    everything = range(llm["n_layers"])
    layers = set(everything if chosen is None else chosen)
    if chosen is not None and llm["sliding_attention_rope_scaling"]:
        layers = set(everything) - layers
    return YarnConfig(
        layers=tuple(sorted(layers)),
        factor=float(llm["rope_factor"]),
        original_length=llm["rope_original_max_position_embeddings"],
        beta_fast=float(llm["rope_beta_fast"] or 32.0),
        beta_slow=float(llm["rope_beta_slow"] or 1.0),
        attention_factor=llm["rope_attention_factor"],
    )


def poolings(native: Mapping[str, Any]) -> tuple[int, int]:
    """Side of the windows that patches of a video and of an image are pooled in.

    Older configurations have no table for videos; there, the preprocessor's own window is that of
    videos, and images are pooled in windows of 2.
    """
    preprocessor = native.get("mm_preprocessor") or {}
    video, image = preprocessor.get("video", preprocessor), preprocessor.get("image", {})
    sides = [(table.get("pooling_h"), table.get("pooling_w")) for table in (video, image)]
    for height, width in sides:
        if height != width:
            raise ConfigError(
                f"pooling_h is {height} and pooling_w is {width}; only square windows can be read"
            )
    return sides[0][0] or DEFAULT_VIDEO_POOLING, sides[1][0] or DEFAULT_IMAGE_POOLING


def model_config(native: Mapping[str, Any]) -> ModelConfig:
    """From the `model` table of a native `config.yaml`, of today's layout or the older one.

    Raises:
      ConfigError: if it asks for something that can't be built.
    """
    if "llm" not in native or "vision_backbone" not in native:
        raise ConfigError(
            "it has no tables `llm` and `vision_backbone`: it is of Molmo 1 or no model at all"
        )
    backbone, llm = native["vision_backbone"], _LLM_DEFAULTS | dict(native["llm"])
    video, image = poolings(native)
    backbone = _BACKBONE_DEFAULTS | dict(backbone)
    _require_one_ratio(native, backbone["vit"])
    return ModelConfig(
        vit=vit_config(backbone["vit"], tuple(backbone["vit_layers"])),
        prune=prune_config(backbone["vit"], video),
        connector=connector_config(backbone, llm, image),
        llm=llm_config(llm, native.get("bi_directional_attn")),
    )
