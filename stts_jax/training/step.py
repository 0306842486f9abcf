"""Makes the state of a run, and the compiled step that trains it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from stts_jax.batch import Batch
from stts_jax.budget import Budget
from stts_jax.config import Config
from stts_jax.layers.lora import with_dropout_keys
from stts_jax.model.video_language_model import VideoLanguageModel
from stts_jax.parallel.mesh import (
    batch_sharding,
    on_mesh,
    parameter_shardings,
    replicated,
    sharded_shapes,
)
from stts_jax.parallel.parameters import named_parameters, replace_parameters
from stts_jax.parallel.platform import compiler_options, compute_dtype
from stts_jax.training.accumulate import value_and_summed_gradient
from stts_jax.training.adapters.placement import adapted
from stts_jax.training.distillation import Teacher, logged
from stts_jax.training.frozen_step import frozen_step
from stts_jax.training.loss import Counted, loss_fn
from stts_jax.training.loss_spikes import SpikeState, detect_spike, init_spike_state
from stts_jax.training.optimizer import Named, group_metrics, groups_of, is_trained, make_optimizer

Metrics = dict[str, jax.Array]
# Folded into a key for adapters, their parameters and their dropout.
_ADAPTERS_KEY = 0x10BA


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """The state that a step updates.

    Attributes:
      model: parameters: float32, and those of a frozen base as `train.frozen_weights` says.
      optimizer: moments and counts, by dotted parameter name.
      step: () int32, updates so far.
      spikes: running means of `train.skip_loss_spikes`, None where that is off.
    """

    model: VideoLanguageModel
    optimizer: optax.OptState
    step: jax.Array
    spikes: SpikeState | None = None


TrainStep = Callable[[TrainState, Batch, jax.Array], tuple[TrainState, Metrics]]


def abstract_state(config: Config, mesh: Mesh) -> TrainState:
    """Returns the shapes and shardings of a state, without arrays.

    Moments have the shardings of their parameters; counts are replicated.
    """
    # A frozen base is held in the type that the platform computes in.
    leaves, structure = _traced(config, str(compute_dtype(config.model.compute_dtype)))
    shapes = jax.tree.unflatten(structure, leaves)
    model = parameter_shardings(shapes.model, mesh)
    by_name = named_parameters(model)

    def of_optimizer(path: tuple[Any, ...], _: Any) -> Any:
        names = (getattr(entry, "key", None) for entry in path)
        return next((by_name[name] for name in names if name in by_name), replicated(mesh))

    optimizer = jax.tree_util.tree_map_with_path(of_optimizer, shapes.optimizer)
    spikes = jax.tree.map(lambda _: replicated(mesh), shapes.spikes)
    step: Any = replicated(mesh)
    shardings = TrainState(model, optimizer, step, spikes)
    abstract: TrainState = sharded_shapes(shapes, shardings)
    return abstract


@lru_cache(maxsize=32)
def _traced(config: Config, dtype: str) -> tuple[list[jax.ShapeDtypeStruct], Any]:
    del dtype  # a part of the key
    # A run asks three times, and tracing takes a second. See `model.abstract_model`.
    return jax.tree.flatten(jax.eval_shape(lambda: _new_state(config, jax.random.key(0))))


def state_shardings(state: TrainState) -> TrainState:
    """Returns the sharding of every array of a state, abstract or not."""
    return jax.tree.map(lambda leaf: leaf.sharding, state)


def init_state(config: Config, mesh: Mesh, key: jax.Array) -> TrainState:
    """Returns a new state; every device makes only its own part of it.

    Args:
      config: of the run.
      mesh: to shard it over.
      key: for the parameters.
    """
    shardings = state_shardings(abstract_state(config, mesh))
    return jax.jit(lambda key: _new_state(config, key), out_shardings=shardings)(key)


def init_trained(
    config: Config, mesh: Mesh, key: jax.Array, frozen: dict[str, jax.Array]
) -> TrainState:
    """Returns a new state whose frozen parameters are given, and are not initialised.

    Args:
      config: of the run.
      mesh: to shard it over.
      key: for the parameters that are trained.
      frozen: all others by dotted name, sharded.
    """
    abstract = abstract_state(config, mesh)
    names = [name for name in named_parameters(abstract.model) if name not in frozen]

    def make(key: jax.Array) -> tuple[Named, Any]:
        state = _new_state(config, key)
        named = named_parameters(state.model)
        rest = (state.optimizer, state.step, state.spikes)
        return {name: named[name] for name in names}, rest

    shardings = state_shardings(abstract)
    by_name = named_parameters(shardings.model)
    outputs = (
        {name: by_name[name] for name in names},
        (shardings.optimizer, shardings.step, shardings.spikes),
    )
    trained, rest = jax.jit(make, out_shardings=outputs)(key)
    return TrainState(replace_parameters(abstract.model, frozen | trained), *rest)


def make_train_step(
    config: Config, budget: Budget, mesh: Mesh, teacher: VideoLanguageModel | None = None
) -> TrainStep:
    """Returns the step `(state, batch, key) -> (state, metrics)`, compiled at its first call.

    The state is donated. The batch is placed by `shard_batch`; `key` is the same in all steps, each
    folds its number in. Metrics are () float32 or int32 on the devices: those of `loss_fn`, with
    `train.distill` those of `distillation.logged`, `total_loss`, those of `group_metrics`, and with
    `train.skip_loss_spikes` also `skipped`, the steps so far that left parameters and moments (and
    the schedule's count) as they were.

    Args:
      config: of the run.
      budget: static sizes of the rows.
      mesh: that state and batches lie on.
      teacher: model of `train.distill.teacher`, if that is a folder.
    """
    abstract = abstract_state(config, mesh)
    shardings = state_shardings(abstract)
    step = partial(_step, config, budget, mesh)
    given = (batch_sharding(mesh), replicated(mesh))
    given += () if teacher is None else (jax.tree.map(lambda x: x.sharding, teacher),)
    # A frozen model may be held in bfloat16 or int8.
    jit = partial(jax.jit, donate_argnums=0, compiler_options=compiler_options(abstract.model))
    compiled: Any
    if config.train.has_base:
        compiled = frozen_step(step, abstract, config.train, jit, given, replicated(mesh))
    else:
        outputs = (shardings, replicated(mesh))
        compiled = jit(step, in_shardings=(shardings, *given), out_shardings=outputs)
    return compiled if teacher is None else TaughtStep(compiled, teacher)


def _step(
    config: Config,
    budget: Budget,
    mesh: Mesh,
    state: TrainState,
    batch: Batch,
    key: jax.Array,
    teacher: VideoLanguageModel | None = None,
) -> tuple[TrainState, Metrics]:
    step_key = jax.random.fold_in(key, state.step)
    (total, metrics), gradients = loss_and_gradients(
        config, budget, mesh, state.model, batch, step_key, teacher
    )
    named = named_parameters(state.model)
    parameters = {name: named[name] for name in gradients}
    groups = groups_of(parameters, config.train)
    optimizer = make_optimizer(config.train, groups)
    updates, moments = optimizer.update(gradients, state.optimizer, parameters)
    changed = optax.apply_updates(parameters, updates)
    number, spikes = state.step + 1, state.spikes
    if spikes is not None:
        norm, factor = optax.tree.norm(gradients), config.train.skip_loss_spikes
        spike, spikes = detect_spike(spikes, metrics["loss"], norm, factor)
        changed = optax.tree.where(spike, parameters, changed)
        moments = optax.tree.where(spike, state.optimizer, moments)
        metrics |= {"skipped": spikes.skipped}
    model = replace_parameters(state.model, changed)
    metrics |= group_metrics(gradients, groups, config.train, number)
    return TrainState(model, moments, number, spikes), metrics | {"total_loss": total}


@dataclass(frozen=True)
class TaughtStep:
    """A compiled step with the teacher that it takes as its last argument."""

    step: Any
    teacher: VideoLanguageModel

    def __call__(
        self, state: TrainState, batch: Batch, key: jax.Array
    ) -> tuple[TrainState, Metrics]:
        """Makes the step."""
        made: tuple[TrainState, Metrics] = self.step(state, batch, key, self.teacher)
        return made

    def lower(self, state: TrainState, batch: Batch, key: jax.Array) -> jax.stages.Lowered:
        """Lowers the step, see `jax.jit`."""
        lowered: jax.stages.Lowered = self.step.lower(state, batch, key, self.teacher)
        return lowered


def loss_and_gradients(
    config: Config,
    budget: Budget,
    mesh: Mesh,
    model: VideoLanguageModel,
    batch: Batch,
    key: jax.Array,
    teacher: VideoLanguageModel | None = None,
) -> tuple[tuple[jax.Array, Metrics], Named]:
    """Returns loss, metrics and gradients of a batch, in `train.accumulate` parts.

    Only with respect to parameters that are trained: of the others none are computed.

    Args:
      config: of the run.
      budget: static sizes of the rows.
      mesh: that model and batch lie on.
      model: whose trained parameters to differentiate by.
      batch: see `Batch`.
      key: of the step; each of several parts folds its number in.
      teacher: model of `train.distill.teacher`, if that is a folder.

    Returns:
      the loss and the metrics of `loss_fn`, and the gradients by dotted name.
    """
    parts, dropout = config.train.accumulate, config.train.lora.dropout
    named = named_parameters(model)
    trained = {name: leaf for name, leaf in named.items() if is_trained(name, config.train)}
    counted = Counted.of_batch(batch, config.model) if parts > 1 else None

    def loss_of(trained: Named, rows: Batch, part: jax.Array) -> tuple[jax.Array, Metrics]:
        own_key = jax.random.fold_in(key, part) if parts > 1 else key
        whole = replace_parameters(model, trained)
        teaching = Teacher.of_step(config, budget, whole, teacher)
        if dropout:
            whole = with_dropout_keys(whole, jax.random.fold_in(own_key, _ADAPTERS_KEY))
        with on_mesh(mesh):
            return loss_fn(
                whole,
                rows,
                budget,
                config.train,
                key=own_key,
                train=True,
                counted=counted,
                teacher=teaching,
            )

    (total, metrics), gradients = value_and_summed_gradient(loss_of, trained, batch, parts, mesh)
    return (total, logged(metrics)), gradients


def _new_state(config: Config, key: jax.Array) -> TrainState:
    model = VideoLanguageModel(config.model, key=key)
    model = adapted(model, config.train, jax.random.fold_in(key, _ADAPTERS_KEY))
    spikes = init_spike_state() if config.train.skip_loss_spikes else None
    return TrainState(model, _init_optimizer(config, model), jnp.zeros((), jnp.int32), spikes)


def _init_optimizer(config: Config, model: VideoLanguageModel) -> optax.OptState:
    named = named_parameters(model)
    trained = {name: leaf for name, leaf in named.items() if is_trained(name, config.train)}
    return make_optimizer(config.train, groups_of(trained, config.train)).init(trained)
