"""The smallest run that trains adapters and the scorer, shared by the tests of adapters."""

from functools import cache

import numpy as np
from orbax.checkpoint import v1 as ocp
from training_cases import fresh_state, single_mesh, small_config, small_parts, train_step

from stts_jax.config import override
from stts_jax.parallel.parameters import named_parameters
from stts_jax.training.checkpointing import base as checkpointing_base
from stts_jax.training.checkpointing.adapted_start import open_start
from stts_jax.training.checkpointing.load import save_model
from stts_jax.training.checkpointing.run_folder import config_of
from stts_jax.training.optimizer import is_trained
from stts_jax.training.run import train
from stts_jax.training.step import abstract_state

LORA = ("train.lora.rank=2", 'train.lora.targets=["llm", "vit.attention"]')


def lora_config(*overrides):
    return small_config(*LORA, *overrides)


@cache
def lora_step():
    return train_step(*LORA)


def save_base(folder, config=None):
    """A whole model, which nothing was trained from yet."""
    config = config or small_config()
    save_model(fresh_state().model, config, folder)
    return folder


def train_adapters(output, base, *overrides, config=None, **options):
    """A run of four steps from a base."""
    config = config or lora_config("train.steps=4", *overrides)
    options.setdefault("parts", small_parts(make_step=lambda *_: lora_step()))
    return train(config, output, init_from=base, **options)


def write_adapters(folder, base, *overrides):
    """The folder of a run with random adapters, as if it had ended."""
    config = override(config_of(base), [*LORA, *overrides])
    model = abstract_state(config, single_mesh()).model
    rng = np.random.default_rng(5)
    arrays = {
        name: 0.2 * rng.standard_normal(leaf.shape, np.float32)
        for name, leaf in named_parameters(model).items()
        if is_trained(name, config.train)
    }
    config.save(folder)
    checkpointing_base.save_base(open_start(base).base, folder)
    ocp.save_checkpointables(folder.resolve() / "checkpoints" / "4", {"model": arrays})
    return folder
