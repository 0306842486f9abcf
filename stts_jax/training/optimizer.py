"""Makes AdamW or Muon with learning rate, warm-up and clipping norm for each parameter group.

Source: the reference's optimiser groups, `MultimodalScheduler` and per-group clipping
(olmo/train/optim.py and trainer.py; docs/reference.md#optimiser).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from stts_jax.config import GroupConfig, TrainConfig
from stts_jax.training.adapters.names import is_adapter

GROUPS = ("llm", "vit", "connector", "scorer")
FROZEN = "frozen"
# The extra embedding holds the visual tokens, which are new to a pretrained language model, so it
# learns with the connector.
_OTHER_GROUP = {"llm.extra_embedding": "connector"}
_BASE_EMBEDDING = "llm.embedding"

# Parameters, gradients and moments by dotted name, see `named_parameters`.
Named = dict[str, jax.Array]


def group_of(name: str, config: TrainConfig) -> str:
    """Returns the group of a parameter: one of `GROUPS`, or `FROZEN`.

    A tied head is the base embedding itself, so both are frozen together.

    An adapter is in the group of the layer that it adapts, and is never frozen.

    Raises:
      ValueError: for a parameter that belongs to no group.
    """
    group = _OTHER_GROUP.get(name, name.partition(".")[0])
    if group not in GROUPS:
        raise ValueError(f"parameter '{name}' is in none of the groups {', '.join(GROUPS)}")
    return FROZEN if _is_frozen(name, group, config) else group


def _is_frozen(name: str, group: str, config: TrainConfig) -> bool:
    if is_adapter(name):
        return False
    if config.lora.rank > 0 and group != "scorer":
        return True
    return group in config.freeze or (config.freeze_base_embedding and name == _BASE_EMBEDDING)


def is_trained(name: str, config: TrainConfig) -> bool:
    """Returns whether a parameter has gradients and moments."""
    return group_of(name, config) != FROZEN


def groups_of(names: Iterable[str], config: TrainConfig) -> dict[str, str]:
    """Returns the group of each parameter by name."""
    return {name: group_of(name, config) for name in names}


def learning_rate(group: GroupConfig, config: TrainConfig, step: Any) -> jax.Array:
    """Returns the learning rate of a group in the update from step `step - 1` to `step`.

    Linear from 0 up to the peak at the end of the warm-up, then half a cosine down to
    `final_learning_rate` times the peak at the last step. The first update already has the rate
    of step 1, so none is wasted. A run that is no longer than the warm-up ends within it.

    Args:
      group: peak and warm-up.
      config: length of the run and final share.
      step: 1 for the first update.

    Returns:
      () float32.
    """
    step = jnp.asarray(step, jnp.float32)
    peak, final = group.learning_rate, group.learning_rate * config.final_learning_rate
    rising = peak * step / max(group.warmup, 1)
    share = (step - group.warmup) / max(config.steps - group.warmup, 1)
    falling = final + (peak - final) * (1 + jnp.cos(jnp.pi * jnp.clip(share, 0, 1))) / 2
    return jnp.where(step < group.warmup, rising, falling).astype(jnp.float32)


def is_decayed(name: str) -> bool:
    """Returns whether a parameter has weight decay: all but norms and biases."""
    *owners, last = name.split(".")
    return last != "bias" and not (owners and owners[-1].endswith("norm"))


def make_optimizer(config: TrainConfig, groups: Mapping[str, str]) -> optax.GradientTransformation:
    """Returns the optimizer of parameters given by dotted name.

    Args:
      config: of the run.
      groups: group of each parameter, see `groups_of`.

    Returns:
      A transformation of dictionaries; moments are float32, frozen parameters have none.
    """
    transforms = {group: _group_optimizer(group, config) for group in GROUPS}
    transforms[FROZEN] = optax.set_to_zero()
    present = set(groups.values())
    return optax.partition(
        {group: transform for group, transform in transforms.items() if group in present},
        dict(groups),
    )


def _group_optimizer(group: str, config: TrainConfig) -> optax.GradientTransformation:
    """Returns the optimizer of a group; in `optax.partition` it clips by the group's own norm."""

    def rate(count: jax.Array) -> jax.Array:
        return learning_rate(getattr(config, group), config, count + 1)

    update = _muon(rate, config) if config.optimizer == "muon" else _adamw(rate, config)
    return optax.chain(optax.clip_by_global_norm(config.clip), update)


def _adamw(rate: optax.Schedule, config: TrainConfig) -> optax.GradientTransformation:
    steps = [optax.scale_by_adam(config.beta1, config.beta2, config.epsilon, mu_dtype=jnp.float32)]
    if config.weight_decay > 0:
        steps.append(optax.add_decayed_weights(config.weight_decay, mask=_decay_mask))
    return optax.chain(*steps, optax.scale_by_learning_rate(rate))


def _muon(rate: optax.Schedule, config: TrainConfig) -> optax.GradientTransformation:
    """Returns Muon for the kernels, with updates scaled to Adam's RMS, and Adam for all else."""
    return optax.contrib.muon(
        rate,
        beta=config.beta2,
        weight_decay=config.weight_decay,
        weight_decay_mask=_decay_mask,
        mu_dtype=jnp.float32,
        adam_b1=config.beta1,
        adam_b2=config.beta2,
        eps=config.epsilon,
        adam_weight_decay=config.weight_decay,
        muon_weight_dimension_numbers=_kernels,
        consistent_rms=1.0,
    )


def _kernels(parameters: Mapping[str, Any]) -> dict[str, optax.contrib.MuonDimensionNumbers | None]:
    """Returns input and output axis of matrices, which may be stacked over layers; None for others.

    Embeddings and the head are not among them: their rows are words.
    """
    axes = optax.contrib.MuonDimensionNumbers(reduction_axis=-2, output_axis=-1)
    return {
        name: axes if name.endswith(".kernel") and not isinstance(value, optax.MaskedNode) else None
        for name, value in parameters.items()
    }


def _decay_mask(parameters: Mapping[str, Any]) -> dict[str, bool]:
    return {name: is_decayed(name) for name in parameters}


def group_metrics(
    gradients: Named, groups: Mapping[str, str], config: TrainConfig, step: jax.Array
) -> dict[str, jax.Array]:
    """Returns `learning_rate/GROUP` and `gradient_norm/GROUP` (before clipping), () float32 each.

    Args:
      gradients: by name.
      groups: group of each parameter.
      config: of the run.
      step: of the update, 1 for the first.
    """
    metrics = {}
    for group in GROUPS:
        members = [gradients[name] for name, its in groups.items() if its == group]
        if members:
            metrics[f"learning_rate/{group}"] = learning_rate(getattr(config, group), config, step)
            metrics[f"gradient_norm/{group}"] = optax.tree.norm(members)
    return metrics
