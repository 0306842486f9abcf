"""Configuration: frozen dataclasses, one per part, checked where they are built. No JAX here.

Every published setup is one short TOML file in `configs/`; a file may name another as its `base`
and states only what differs. `load_config("tiny", ["model.prune.topk=0.3"])` is what the command
lines use. Anything wrong (unknown key, wrong type, impossible combination) raises `ConfigError`
with one sentence that names the key, the value and the remedy, before anything is allocated.
"""

from stts_jax.config.checks import ConfigError
from stts_jax.config.data import DataConfig
from stts_jax.config.files import (
    CONFIG_DIR,
    config_from_dict,
    config_names,
    load_config,
    override,
    replace,
)
from stts_jax.config.lora import LoraConfig
from stts_jax.config.model import (
    IMAGE_STRUCTURE_TOKENS,
    SPECIAL_TOKENS,
    Bidirectional,
    ComputeDtype,
    ConnectorConfig,
    LlmConfig,
    ModelConfig,
    PruneConfig,
    PruneLayout,
    PruneMethod,
    VitConfig,
    YarnConfig,
)
from stts_jax.config.run import (
    Config,
    EvalConfig,
)
from stts_jax.config.train import (
    DistillConfig,
    GroupConfig,
    MeshConfig,
    TrainConfig,
)

__all__ = [
    "CONFIG_DIR",
    "IMAGE_STRUCTURE_TOKENS",
    "SPECIAL_TOKENS",
    "Bidirectional",
    "ComputeDtype",
    "Config",
    "ConfigError",
    "ConnectorConfig",
    "DataConfig",
    "DistillConfig",
    "EvalConfig",
    "GroupConfig",
    "LlmConfig",
    "LoraConfig",
    "MeshConfig",
    "ModelConfig",
    "PruneConfig",
    "PruneLayout",
    "PruneMethod",
    "TrainConfig",
    "VitConfig",
    "YarnConfig",
    "config_from_dict",
    "config_names",
    "load_config",
    "override",
    "replace",
]
