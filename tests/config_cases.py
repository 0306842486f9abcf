"""Helpers for tests of the configuration."""

from __future__ import annotations

from typing import Any

import pytest

from stts_jax.config import (
    ConfigError,
    PruneConfig,
    load_config,
)

QWEN3 = {
    "vocab_size": 151936,
    "layers": 36,
    "heads": 32,
    "kv_heads": 8,
    "norm_position": "pre",
    "qk_norm": "head",
    "yarn": None,
}
LLMS = {
    "molmo2_4b": {
        **QWEN3,
        "width": 2560,
        "mlp_width": 19456 // 2,
        "rope_theta": 5e6,
        "tied_head": True,
    },
    "molmo2_8b": {
        **QWEN3,
        "width": 4096,
        "mlp_width": 24576 // 2,
        "rope_theta": 1e6,
        "tied_head": False,
    },
    "molmo2_o_7b": {
        "vocab_size": 100278,
        "layers": 32,
        "heads": 32,
        "kv_heads": 32,
        "norm_position": "post",
        "qk_norm": "full",
        "width": 4096,
        "mlp_width": 22016 // 2,
        "rope_theta": 5e5,
        "tied_head": False,
    },
}
SIZES = tuple(LLMS)
SETUPS = {
    **{size: (size, "none", 0.0) for size in SIZES},
    **{
        f"{size}_stts_{percent}": (size, "scorer", percent / 100)
        for size in SIZES
        for percent in (30, 40, 50)
    },
    **{f"{size}_stts_any": (size, "scorer", 0.5) for size in SIZES},
}
OTHERS = ("tiny", "tiny_pictures", "tiny_stts_any")
P = 81


def refusal(name: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(name, overrides)
    return str(caught.value)


def scorer(topk: float, **settings: Any) -> PruneConfig:
    return PruneConfig(method="scorer", topk=topk, **settings)
